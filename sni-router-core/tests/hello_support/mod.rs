//! Builds ClientHellos, right and wrong ones, and cuts them into records.
#![allow(
    dead_code,
    reason = "each test and benchmark uses its own part of this"
)]

/// A ClientHello that can be bent at any place before it is put on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) legacy_version: u16,
    pub(crate) session_id: Vec<u8>,
    pub(crate) cipher_suites: Vec<u8>,
    pub(crate) compression_methods: Vec<u8>,
    /// Type and content; `None` leaves out even their length, as TLS 1.0 clients may.
    pub(crate) extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Draft {
    pub(crate) fn new(extensions: Vec<(u16, Vec<u8>)>) -> Self {
        Self {
            legacy_version: 0x0303,
            session_id: vec![7; 32],
            cipher_suites: vec![0x13, 0x01, 0x13, 0x02],
            compression_methods: vec![0],
            extensions: Some(extensions),
        }
    }

    /// With nothing but a server_name extension.
    pub(crate) fn named(name: &str) -> Self {
        Self::new(vec![(SERVER_NAME, server_name(&[(0, name.as_bytes())]))])
    }

    /// Asking for `name`, and filled up with padding (RFC 7685) to `size` bytes of stream.
    pub(crate) fn padded(name: &str, size: usize) -> Self {
        let mut draft = Self::named(name);
        let padding = |len| (21, vec![0; len]);
        draft.extensions.as_mut().unwrap().push(padding(0));
        let missing = size - in_records(&draft.handshake()).len();
        *draft.extensions.as_mut().unwrap().last_mut().unwrap() = padding(missing);
        // More bytes may have needed more record headers.
        let over = in_records(&draft.handshake()).len() - size;
        *draft.extensions.as_mut().unwrap().last_mut().unwrap() = padding(missing - over);
        draft
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend([0x5a; 32]);
        body.extend(vector8(&self.session_id));
        body.extend(vector16(&self.cipher_suites));
        body.extend(vector8(&self.compression_methods));
        if let Some(extensions) = &self.extensions {
            let mut block = Vec::new();
            for (kind, data) in extensions {
                block.extend(kind.to_be_bytes());
                block.extend(vector16(data));
            }
            body.extend(vector16(&block));
        }
        body
    }

    pub(crate) fn handshake(&self) -> Vec<u8> {
        handshake(1, &self.body())
    }

    /// The stream, in as few records as possible.
    pub(crate) fn stream(&self) -> Vec<u8> {
        in_records(&self.handshake())
    }
}

/// A handshake message.
pub(crate) fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    assert_eq!(len[0], 0, "handshake messages have 24 bits of length");
    [&[kind, len[1], len[2], len[3]], body].concat()
}

/// A handshake record.
pub(crate) fn record(content: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector16(content)].concat()
}

/// The handshake in records as large as allowed.
pub(crate) fn in_records(handshake: &[u8]) -> Vec<u8> {
    in_records_of(handshake, || 1 << 14)
}

/// The handshake in records that `len` says the lengths of.
pub(crate) fn in_records_of(handshake: &[u8], mut len: impl FnMut() -> usize) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = handshake;
    while !rest.is_empty() {
        let (content, next) = rest.split_at(len().min(rest.len()));
        stream.extend(record(content));
        rest = next;
    }
    stream
}

/// Content of a server_name extension: types and names.
pub(crate) fn server_name(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend(vector16(name));
    }
    vector16(&list)
}

/// Content of an ALPN extension.
pub(crate) fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|p| vector8(p)).collect();
    vector16(&list)
}

/// Content of a supported_versions extension.
pub(crate) fn supported_versions(versions: &[u16]) -> Vec<u8> {
    let list: Vec<u8> = versions.iter().flat_map(|v| v.to_be_bytes()).collect();
    vector8(&list)
}

/// Content of an encrypted_client_hello extension of type outer.
pub(crate) fn outer_ech() -> Vec<u8> {
    [
        &[0, 0, 1, 0, 1, 9][..],
        &vector16(&[1; 32]),
        &vector16(&[2; 144]),
    ]
    .concat()
}

pub(crate) fn vector8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

pub(crate) fn vector16(content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap();
    [&len.to_be_bytes(), content].concat()
}

pub(crate) const SERVER_NAME: u16 = 0;
pub(crate) const ALPN: u16 = 16;
pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
pub(crate) const ECH: u16 = 0xfe0d;
