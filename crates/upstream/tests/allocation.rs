//! The fast path allocates nothing.

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use support::{Fake, discovery, settings};

#[test]
fn a_choice_allocates_nothing() {
    let upstream = discovery(&Fake::new()).add(settings("10.0.0.1:80"));
    let choose = || {
        let choice = pin!(upstream.choose(&[])).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(choice, Poll::Ready(Ok(_))));
    };
    choose();
    let info = allocation_counter::measure(|| (0..100).for_each(|_| choose()));
    assert_eq!(info.count_total, 0);
}
