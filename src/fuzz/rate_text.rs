use crate::rate::Rate;

/// A rate that is read is written so that it is read again; what is none is said in one short line.
pub fn rate_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Rate>() {
        Ok(rate) => assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate), "{text:?}"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() < 300 && !said.contains(char::is_control), "{said:?}");
        }
    }
}
