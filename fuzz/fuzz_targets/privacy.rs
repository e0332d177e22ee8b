//! Hiding numbers in any text: hiding twice changes nothing, JSON stays JSON, and an erased number
//! is found.

#![no_main]

use std::borrow::Cow;
use std::sync::Arc;

use cdrlake::internals::{Mode, Modes, Privacy, PrivacyKey, Record, RecordPrivacy};
use libfuzzer_sys::fuzz_target;

fn privacy(mode: Mode) -> Privacy {
    let key = PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuvwxyz").unwrap();
    Privacy::new(Modes::all(mode), Some(key))
}

fn hide(mode: Mode, text: &str) -> Record<'static> {
    let json = serde_json::to_string(&[text]).unwrap();
    let mut record = Record {
        from_number: Some(Cow::Owned(text.to_owned())),
        destination: Some(Cow::Owned(text.to_owned())),
        extra: Some(Cow::Owned(json)),
        ..Record::default()
    };
    RecordPrivacy::new(Arc::new(privacy(mode))).hide(&mut record);
    record
}

fuzz_target!(|text: &str| {
    for mode in [Mode::Pseudonymize, Mode::Truncate] {
        let hidden = hide(mode, text);
        let extra = hidden.extra.as_deref().unwrap();
        let extra: Vec<String> = serde_json::from_str(extra).unwrap();
        assert_eq!(extra.len(), 1);
        privacy(mode).hide_in_bytes(text.as_bytes());
    }
    let once = hide(Mode::Pseudonymize, text);
    let mut twice = once.clone();
    RecordPrivacy::new(Arc::new(privacy(Mode::Pseudonymize))).hide(&mut twice);
    assert_eq!(once.extra, twice.extra, "{text:?}");
    // A plain number is found after any text.
    let token = PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuvwxyz")
        .unwrap()
        .token("13025550101");
    let erased = privacy(Mode::Keep).suppressing([token]).unwrap();
    assert!(
        erased.suppresses_text(&format!("{text}\"13025550101\"")),
        "{text:?}"
    );
});
