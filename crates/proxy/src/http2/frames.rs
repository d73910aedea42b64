//! Where in a client's frames its bytes have come to: h2 does not tell whether a head has begun.

/// Bytes of the preface (RFC 9113 §3.4) and of a frame's head (§4.1).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows what a client sends, from the preface on.
#[derive(Debug)]
pub struct Frames {
    /// Left of the preface, or of a frame's payload.
    left: usize,
    /// What there is of the next frame's head.
    head: [u8; FRAME_HEAD],
    filled: usize,
    /// The client has begun to say its settings: nothing may come before them.
    settled: bool,
    /// The payload is one of a request's head, or of trailers.
    fields: bool,
    /// And there is more of them in frames to come.
    continues: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            left: PREFACE,
            head: [0; FRAME_HEAD],
            filled: 0,
            settled: false,
            fields: false,
            continues: false,
        }
    }
}

impl Frames {
    /// These bytes came next.
    pub fn read(&mut self, mut bytes: &[u8]) {
        loop {
            let payload = self.left.min(bytes.len());
            self.left -= payload;
            bytes = &bytes[payload..];
            if bytes.is_empty() {
                return;
            }
            let count = (FRAME_HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == FRAME_HEAD {
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.filled = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.settled |= kind == SETTINGS;
        self.fields = matches!(kind, HEADERS | CONTINUATION);
        self.continues = self.fields && flags & END_HEADERS == 0;
    }

    /// True inside of what must be complete before anything can come of it: the preface with the settings, the head of a
    /// frame, and a request's head or trailers. What is missing of a body is another matter.
    #[must_use]
    pub fn in_head(&self) -> bool {
        !self.settled || self.filled > 0 || self.continues || self.fields && self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD + payload, 7);
        bytes
    }

    /// Whether each prefix of these bytes ends inside of a head, by runs: how many bytes, and which.
    fn runs(bytes: &[u8]) -> Vec<(usize, bool)> {
        let mut frames = Frames::default();
        let mut runs: Vec<(usize, bool)> = Vec::new();
        for byte in bytes {
            frames.read(&[*byte]);
            match runs.last_mut().filter(|(_, inside)| *inside == frames.in_head()) {
                Some((count, _)) => *count += 1,
                None => runs.push((1, frames.in_head())),
            }
        }
        runs
    }

    #[test]
    fn a_head_is_open_from_its_first_byte_until_its_last() {
        let settings = [vec![b'P'; PREFACE], frame(SETTINGS, 0, 12)].concat();
        let whole = [settings.clone(), frame(HEADERS, END_HEADERS, 20), frame(0, 0, 30)].concat();
        // A frame's own head counts until it is whole: it could be a request's.
        let opened =
            [(PREFACE + 8, true), (13, false), (28, true), (9 + 20 - 28, false), (8, true), (31, false)];
        assert_eq!(runs(&whole), opened);
        let continued =
            [settings, frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 3)]
                .concat();
        assert_eq!(runs(&continued), [(PREFACE + 8, true), (13, false), (14 + 9 + 11, true), (1, false)]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_what_pieces_bytes_come(
            bytes in proptest::collection::vec(0_u8..12, 0..200), at in 0_usize..200
        ) {
            let (mut whole, mut pieces) = (Frames::default(), Frames::default());
            whole.read(&bytes);
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            pieces.read(first);
            pieces.read(second);
            prop_assert_eq!(whole.in_head(), pieces.in_head());
        }
    }
}
