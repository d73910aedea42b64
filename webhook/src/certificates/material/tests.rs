use proptest::prelude::*;

use super::*;

const LIFETIMES: Lifetimes =
    Lifetimes { authority: SignedDuration::from_hours(365 * 24), leaf: SignedDuration::from_hours(30 * 24) };

fn names() -> Vec<String> {
    vec!["whichpod.whichpod-system.svc".to_owned(), "127.0.0.1".to_owned()]
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn hours(hours: i64) -> Timestamp {
    now() + SignedDuration::from_hours(hours)
}

fn fresh() -> Material {
    Material::fresh(&names(), now(), LIFETIMES).unwrap()
}

#[test]
fn what_is_stored_is_read_again() {
    let material = fresh();
    assert_eq!(Material::parse(&material.data()).unwrap(), material);
    assert!(material.is_bundle(material.bundle().as_bytes()));
    assert_eq!(material.leaf_is_current(&names(), now()), Some(true));
    assert_eq!(material.leaf().unwrap().not_after(), hours(30 * 24));
    assert_eq!(material.authority().not_after, hours(365 * 24));
}

#[test]
fn a_leaf_is_valid_for_its_names_and_its_time_only() {
    let material = fresh();
    assert_eq!(material.leaf_is_current(&["other.svc".to_owned()], now()), None);
    assert_eq!(material.leaf_is_current(&names(), hours(30 * 24 + 1)), None);
    assert_eq!(material.leaf_is_current(&names(), hours(-2)), None);
    assert_eq!(material.leaf_is_current(&names(), hours(-1)), Some(true), "clocks may differ");
}

#[test]
fn the_old_certificate_is_trusted_while_a_new_authority_becomes_known() {
    let old = fresh();
    let both = old.with_new_authority(hours(1), LIFETIMES).unwrap();
    assert_eq!(both.leaf(), old.leaf());
    assert_eq!(both.authorities()[1], *old.authority());
    assert_eq!(both.leaf_is_current(&names(), hours(1)), Some(false));
    assert!(!both.is_bundle(old.bundle().as_bytes()));

    let renewed = both.with_new_leaf(&names(), hours(1), LIFETIMES).unwrap();
    assert_eq!(renewed.leaf_is_current(&names(), hours(1)), Some(true));
    assert_eq!(Material::parse(&renewed.data()).unwrap(), renewed);

    let later = renewed.without_expired(hours(365 * 24));
    assert_eq!(later.authorities(), &renewed.authorities()[..1]);
    assert_eq!(both.without_expired(hours(1)), both);
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let old = Material::fresh(
        &names(),
        hours(0),
        Lifetimes { authority: SignedDuration::from_hours(2), ..LIFETIMES },
    );
    let old = old.unwrap();
    assert_eq!(old.leaf().unwrap().not_after(), old.authority().not_after);
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
    let authority = fresh().authority().clone();
    let left = authority.not_after.duration_since(authority.renew_at());
    assert_eq!(left, authority.not_after.duration_since(authority.not_before) / 3);
}

#[test]
fn a_certificate_that_lives_for_minutes_is_not_renewed_as_soon_as_it_is_made() {
    let minutes = SignedDuration::from_mins;
    let lifetimes = Lifetimes { authority: minutes(3), leaf: minutes(1) };
    let material = Material::fresh(&names(), now(), lifetimes).unwrap();
    for (certificate, least) in [(material.authority(), 110), (&material.leaf().unwrap().chain[0], 35)] {
        assert!(
            certificate.renew_at().duration_since(now()).as_secs() >= least,
            "{}",
            certificate.renew_at()
        );
    }
}

#[test]
fn every_kind_of_broken_secret_is_named() {
    let whole = fresh().data();
    let other = fresh().data();
    let with = |name: &str, value: Option<&[u8]>| {
        let mut data = whole.clone();
        match value {
            Some(value) => data.insert(name.to_owned(), ByteString(value.to_vec())),
            None => data.remove(name),
        };
        Material::parse(&data)
    };
    assert_eq!(with("ca.crt", None), Err(Unusable::Missing("ca.crt")));
    assert_eq!(with("ca.key", Some(b"")), Err(Unusable::Missing("ca.key")));
    for garbage in [
        b"garbage".as_slice(),
        b"\xff\xfe",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(matches!(with("ca.crt", Some(garbage)), Err(Unusable::Unreadable { .. })));
        assert!(matches!(with("ca.key", Some(garbage)), Err(Unusable::Unreadable { .. })));
        // Only the authority cannot be made again without anybody noticing.
        assert_eq!(with("tls.crt", Some(garbage)).unwrap().leaf(), None);
    }
    let error = with("ca.key", Some(&other["ca.key"].0)).unwrap_err();
    assert_eq!(error.to_string(), "ca.key does not belong to ca.crt");
    assert_eq!(with("tls.key", Some(&other["tls.key"].0)).unwrap().leaf(), None);
}

#[test]
fn no_key_shows_in_a_log() {
    let material = fresh();
    let text = format!("{material:?}");
    assert!(text.contains("Key(..)") && !text.contains("PRIVATE"), "{text}");
}

proptest! {
    #[test]
    fn no_secret_makes_it_panic(field in prop::sample::select(vec!["ca.crt", "ca.key", "tls.crt", "tls.key"]),
                                value in prop::collection::vec(any::<u8>(), 0..80)) {
        thread_local!(static WHOLE: BTreeMap<String, ByteString> = fresh().data());
        let mut data = WHOLE.with(Clone::clone);
        data.insert(field.to_owned(), ByteString(value));
        let _ = Material::parse(&data);
    }
}
