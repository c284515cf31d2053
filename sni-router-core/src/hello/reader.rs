//! The record layer: finds where the ClientHello starts and ends in the stream.

use std::borrow::Cow;

use super::{MalformedReason, Progress, body};

/// Reads a ClientHello from the first bytes of a connection.
///
/// It keeps no copy of the stream: the caller holds what was received and shows all of it, from
/// the first byte, at every call; the reader remembers how far it has looked. A call costs the
/// records that have become complete since the last one, so slowly dripped input is not read over
/// and over. Only a hello that spans records is copied, once, when it is complete.
#[derive(Debug)]
pub struct HelloReader {
    max_size: usize,
    wants_ja4: bool,
    /// Where in the stream the first record starts that was not complete yet.
    record: usize,
    /// Bytes of handshake in the records in front of that one.
    before: usize,
    /// The handshake header, of which `header_len` bytes are known. They may come one a record.
    header: [u8; HANDSHAKE_HEADER],
    header_len: usize,
}

impl HelloReader {
    /// A reader that gives up with [`Progress::TooLarge`] where more than `max_size` bytes of
    /// stream would be needed. So [`Progress::NeedMore`] is only answered to fewer than `max_size`.
    pub fn new(max_size: usize) -> Self {
        Self {
            max_size,
            wants_ja4: false,
            record: 0,
            before: 0,
            header: [0; HANDSHAKE_HEADER],
            header_len: 0,
        }
    }

    /// The same reader, which also fingerprints the hello if that is `wanted`. It costs more than
    /// reading a usual hello does, so it is for who has a use for it.
    pub fn with_ja4(mut self, wanted: bool) -> Self {
        self.wants_ja4 = wanted;
        self
    }

    /// Looks at the stream so far. `received` is all of it from the first byte; it only grows
    /// between calls. After a final answer the same bytes give the same answer again.
    pub fn advance(&mut self, received: &[u8]) -> Progress {
        let end = match self.find_end(received) {
            Ok(Some(end)) => end,
            Ok(None) => return Progress::NeedMore,
            Err(Refusal::NotTls) => return Progress::NotTls,
            Err(Refusal::Malformed(reason)) => return Progress::Malformed(reason),
            Err(Refusal::TooLarge) => return Progress::TooLarge,
        };
        match body::parse(&self.gather(&received[..end]), end, self.wants_ja4) {
            Ok(hello) => Progress::Hello(hello),
            Err(reason) => Progress::Malformed(reason),
        }
    }

    /// Where the hello ends, or `None` where that has not been received yet.
    ///
    /// The checks come in the order of the bytes they need, so that whole and dripped input fail
    /// at the same one.
    fn find_end(&mut self, received: &[u8]) -> Result<Option<usize>, Refusal> {
        loop {
            self.check_size(MAX_RECORD)?;
            let rest = received.get(self.record..).unwrap_or_default();
            let Some(len) = record_len(rest, self.record == 0)? else {
                return Ok(None);
            };
            self.check_size(len)?;

            let content = &rest[RECORD_HEADER..];
            let content = &content[..content.len().min(len)];
            self.read_header(content)?;
            self.check_size(len)?;

            let message = self.message_len();
            if message.is_some_and(|message| self.before + len > message) {
                return Err(MalformedReason::TrailingData.into());
            }
            if content.len() < len {
                return Ok(None);
            }
            if message == Some(self.before + len) {
                // `record` stays where it is: asked again, the reader answers the same.
                return Ok(Some(self.record + RECORD_HEADER + len));
            }
            self.record += RECORD_HEADER + len;
            self.before += len;
        }
    }

    /// Takes the bytes of the handshake header that the current record has. Nothing is taken of
    /// another message than a ClientHello, so that asking again gives the same answer.
    fn read_header(&mut self, content: &[u8]) -> Result<(), Refusal> {
        while self.header_len < HANDSHAKE_HEADER {
            let Some(&byte) = content.get(self.header_len - self.before) else {
                break;
            };
            if self.header_len == 0 && byte != CLIENT_HELLO {
                return Err(MalformedReason::NotClientHello.into());
            }
            self.header[self.header_len] = byte;
            self.header_len += 1;
        }
        Ok(())
    }

    /// Bytes of the handshake message, its header included, once that is known.
    fn message_len(&self) -> Option<usize> {
        let [_, high, middle, low] = self.header;
        (self.header_len == HANDSHAKE_HEADER)
            .then(|| HANDSHAKE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    /// Refuses a hello that cannot end within the limit any more, where the current record has
    /// `len` bytes and whatever is left comes in as few records as possible.
    fn check_size(&self, len: usize) -> Result<(), Refusal> {
        let message = self.message_len().unwrap_or(HANDSHAKE_HEADER);
        let here = message.saturating_sub(self.before).min(len);
        let later = message.saturating_sub(self.before + here);
        let headers = RECORD_HEADER * (1 + later.div_ceil(MAX_RECORD));
        match self.record + headers + here + later > self.max_size {
            true => Err(Refusal::TooLarge),
            false => Ok(()),
        }
    }

    /// The hello without the headers, of records and of the handshake, from a stream that ends
    /// where it does.
    fn gather<'a>(&self, stream: &'a [u8]) -> Cow<'a, [u8]> {
        if self.record == 0 {
            return Cow::Borrowed(&stream[RECORD_HEADER + HANDSHAKE_HEADER..]);
        }
        let mut message = Vec::with_capacity(self.message_len().unwrap_or_default());
        let mut rest = stream;
        while let Some((&[_, _, _, high, low], next)) = rest.split_first_chunk::<RECORD_HEADER>() {
            let (content, next) = next.split_at(u16::from_be_bytes([high, low]).into());
            message.extend_from_slice(content);
            rest = next;
        }
        message.drain(..HANDSHAKE_HEADER);
        Cow::Owned(message)
    }
}

/// Why reading stops before there is a hello.
enum Refusal {
    NotTls,
    Malformed(MalformedReason),
    TooLarge,
}

impl From<MalformedReason> for Refusal {
    fn from(reason: MalformedReason) -> Self {
        Self::Malformed(reason)
    }
}

/// Bytes of content that the record at the start of `bytes` announces, or `None` where its header
/// is not complete and fine so far.
///
/// Of the version only the first byte is looked at: RFC 8446, 5.1 has receivers ignore
/// legacy_record_version, and clients have sent everything from 3.0 to 3.4 here.
fn record_len(bytes: &[u8], first: bool) -> Result<Option<usize>, Refusal> {
    let unless_first = |reason| match first {
        true => Refusal::NotTls,
        false => Refusal::Malformed(reason),
    };
    if bytes.first().is_some_and(|&kind| kind != HANDSHAKE) {
        return Err(unless_first(MalformedReason::RecordType));
    }
    if bytes.get(1).is_some_and(|&major| major != 3) {
        return Err(unless_first(MalformedReason::RecordVersion));
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Err(MalformedReason::EmptyRecord.into()),
        len if len > MAX_RECORD => Err(MalformedReason::RecordTooLong.into()),
        len => Ok(Some(len)),
    }
}

/// Type, version and length (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;
/// What a plaintext record may hold (RFC 8446, 5.1).
const MAX_RECORD: usize = 1 << 14;
/// Type and length (RFC 8446, 4).
const HANDSHAKE_HEADER: usize = 4;
/// Content type of a handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// Type of the handshake message (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
