use super::*;

/// A frame of 100 bytes that all say its sequence.
fn push(window: &mut Window, sequence: u64) {
    let frame = InFlight::new(sequence, sequence, 1, Instant::now());
    window.push(frame, 100, |out| out.extend_from_slice(&[sequence as u8; 100]));
}

fn pending(window: &Window) -> Vec<u8> {
    let mut slices = Slices::new();
    window.transmit(&mut slices);
    let bytes = slices.as_slice().iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
    assert_eq!(bytes.len(), slices.bytes());
    bytes
}

fn numbers(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(bytes.len() % 100, 0);
    bytes.chunks(100).map(|frame| frame[0]).collect()
}

fn filled(count: u64) -> Window {
    let mut window = Window::new(100, 1 << 20);
    for sequence in 1..=count {
        push(&mut window, sequence);
    }
    window
}

#[test]
fn what_is_sent_goes_on_where_it_stopped() {
    let mut window = filled(3);
    assert_eq!(numbers(&pending(&window)), [1, 2, 3]);
    assert_eq!(window.on_transmitted(150), 0);
    assert!(window.is_mid_frame());
    assert_eq!(pending(&window).len(), 150);
    assert_eq!(window.on_transmitted(157), 7);
    assert!(!window.has_unsent());
    assert!(!window.is_mid_frame());
    window.check();
}

#[test]
fn answers_free_the_window_in_any_order() {
    let mut window = filled(5);
    window.on_transmitted(400);
    let mut answered = Vec::new();
    window.answer(3, 3, |frame| answered.push(frame.ticket));
    window.check();
    assert_eq!(window.frames(), 4);
    window.answer(1, 5, |frame| answered.push(frame.ticket));
    window.check();
    // The fifth was not sent, so no answer can be meant for it.
    assert_eq!(answered, [3, 1, 2, 4]);
    assert_eq!(window.frames(), 1);
    assert_eq!(numbers(&pending(&window)), [5]);
}

#[test]
fn a_new_connection_gets_everything_without_an_answer_in_order() {
    let mut window = filled(5);
    window.on_transmitted(450);
    window.answer(2, 2, |_| {});
    assert_eq!(window.rewind(), 3);
    window.check();
    assert_eq!(numbers(&pending(&window)), [1, 3, 4, 5]);
    assert!(window.find(3).is_none(), "not sent on this connection");
    window.on_transmitted(200);
    assert_eq!(window.find(3).unwrap().tries, 2);
    assert!(window.find(2).is_none());
}

#[test]
fn limits_hold_for_frames_and_bytes() {
    let mut window = Window::new(4, 1000);
    assert!(window.has_room(5000, 0), "a large frame passes alone");
    push(&mut window, 1);
    assert!(window.has_room(900, 0));
    assert!(!window.has_room(901, 0));
    assert!(window.has_room(1, 2));
    assert!(!window.has_room(1, 3));
    window.limit_frames(1);
    assert!(!window.has_room(1, 0));
}

#[test]
fn only_what_was_surely_not_stored_survives_its_session() {
    let mut window = filled(2);
    window.on_transmitted(200);
    window.rewind();
    push(&mut window, 3);
    window.on_transmitted(300);
    push(&mut window, 4);
    let mut failed = Vec::new();
    window.fail_uncertain(3, |frame| failed.push(frame.ticket));
    assert_eq!(failed, [1, 2]);
    assert_eq!(numbers(&pending(&window)), [3, 4]);
    window.check();
}

#[test]
fn steady_use_takes_no_new_memory() {
    let mut window = Window::new(5000, 4 << 20);
    let mut sequence = 0;
    let mut most = 0;
    for _ in 0..50 {
        for _ in 0..4000 {
            sequence += 1;
            push(&mut window, sequence);
        }
        while window.has_unsent() {
            let bytes = pending(&window).len();
            window.on_transmitted(bytes);
        }
        window.answer(0, sequence - 100, |_| {});
        window.check();
        most = most.max(window.chunks.len() + window.spare.len());
    }
    assert!(most <= 3, "{most} chunks for 400 kB");
}

#[test]
fn what_is_sent_keeps_its_answer_when_the_rest_fails() {
    let mut window = filled(4);
    window.on_transmitted(250);
    let mut failed = Vec::new();
    window.fail_unsent(|frame| failed.push(frame.ticket));
    assert_eq!(failed, [3, 4]);
    window.check();
    let mut answered = Vec::new();
    window.answer(0, 9, |frame| answered.push(frame.ticket));
    assert_eq!(answered, [1, 2]);
    window.check();
}

#[test]
fn everything_can_be_failed() {
    let mut window = filled(3);
    window.on_transmitted(120);
    let mut failed = Vec::new();
    window.fail_all(|frame| failed.push(frame.ticket));
    assert_eq!(failed, [1, 2, 3]);
    assert_eq!(window.messages(), 0);
    assert!(pending(&window).is_empty());
    window.check();
}
