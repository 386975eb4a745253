//! Frames between the service and an HSM agent, as either may be made to send them.

use edgate_hsm::agent_frame_words;

/// No frame is read by both sides as something else; words in it can neither steer a terminal nor fill a log.
pub fn agent_frame(input: &[u8]) {
    let Some(words) = agent_frame_words(input) else { return };
    assert!(input.len() > 4, "a frame has a length and a kind");
    for said in words {
        assert!(!said.chars().any(char::is_control), "{said:?}");
        // An error names at most some thirty tokens, of names that came in the frame.
        assert!(said.len() <= 4 * input.len() + 1024, "{} bytes are said of {}", said.len(), input.len());
    }
}
