use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::server::{Server, sized};
use crate::support::{CANARY, DAY, PLACED, Ran, Workplace, calls};

/// An authority of the network's own, which no machine knows.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// What a server needs to call itself `name`, until the end of `last_year`.
    pub(crate) fn certify(&self, name: &str, last_year: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }
}

/// Does `each` with every connection, for as long as the test binary lives.
fn listen(each: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || drop(each(stream)));
        }
    });
    address
}

/// Speaks TLS for a server that does not.
fn front(config: Arc<ServerConfig>, behind: SocketAddr) -> SocketAddr {
    listen(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let mut server = TcpStream::connect(behind)?;
        server.write_all(&head)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        stream.write_all(&answer)?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

/// Runs one slice against `https://localhost`, `ca` among the trusted.
fn run(address: SocketAddr, ca: Option<&str>) -> (Workplace, Ran) {
    let workplace = Workplace::with_url(&format!("https://localhost:{}", address.port()));
    if let Some(ca) = ca {
        std::fs::write(workplace.path("ca.pem"), ca).unwrap();
        workplace.reconfigure("max_attempts = 3", "max_attempts = 3\nca_file = \"ca.pem\"");
    }
    let ran = workplace.run_day(PLACED);
    (workplace, ran)
}

#[test]
fn a_private_certificate_authority_is_trusted_once_it_is_configured() {
    let server = Server::start();
    server.serve("placed", DAY, calls(0, 3), 3);
    let authority = Authority::new();
    let address = front(authority.certify("localhost", 2199), server.address);
    let (workplace, ran) = run(address, Some(&authority.pem));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn an_untrusted_server_gets_one_attempt_and_never_the_key() {
    let server = Server::start();
    server.on("/", [sized("500 Internal Server Error", "", "")]);
    let authority = Authority::new();
    // The first words of a server that knows no newer version than TLS 1.0.
    let hello = [
        b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01".as_slice(),
        &[7; 32],
        b"\x00\x00\x2f\x00",
    ]
    .concat();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let says = |words: Vec<u8>| {
        let heard = Arc::clone(&heard);
        listen(move |mut stream| {
            stream.write_all(&words)?;
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all);
            heard.lock().unwrap().push(all);
            read.map(drop)
        })
    };
    let plain = says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let old = says(hello);
    let certificate = "The certificate is not trusted. Check source.url and this machine's clock; \
         for a private certificate authority, set source.ca_file";
    let version = "It does not support TLS 1.2 or newer";
    let of = |name, last_year| front(authority.certify(name, last_year), server.address);
    for (name, address, ca, said) in [
        (
            "unknown authority",
            of("localhost", 2199),
            None,
            certificate,
        ),
        (
            "another authority",
            of("localhost", 2199),
            Some(Authority::new().pem),
            certificate,
        ),
        (
            "expired",
            of("localhost", 2020),
            Some(authority.pem.clone()),
            certificate,
        ),
        (
            "another host",
            of("example.com", 2199),
            Some(authority.pem.clone()),
            certificate,
        ),
        ("TLS 1.0", old, Some(authority.pem.clone()), version),
        ("no TLS", plain, Some(authority.pem.clone()), version),
    ] {
        let (workplace, ran) = run(address, ca.as_deref());
        assert_eq!(ran.status, 1, "{name}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!(slice.attempts, 1, "{name}: {slice:?}");
        assert!(ran.stderr.contains(said), "{name}: {}", ran.stderr);
        assert_eq!(workplace.table(), [] as [&str; 0], "{name}");
        assert!(server.requests("/").is_empty(), "{name}");
    }
    for heard in heard.lock().unwrap().iter() {
        assert!(!String::from_utf8_lossy(heard).contains(CANARY));
    }
}

#[test]
fn a_ca_file_without_certificates_is_refused() {
    for (content, said) in [
        (
            Some("no certificate"),
            "source.ca_file ca.pem: it holds no certificate in PEM",
        ),
        (None, "source.ca_file ca.pem: No such file or directory"),
    ] {
        let workplace = Workplace::new(&Server::start());
        workplace.reconfigure("max_attempts = 3", "max_attempts = 3\nca_file = \"ca.pem\"");
        if let Some(content) = content {
            std::fs::write(workplace.path("ca.pem"), content).unwrap();
        }
        let ran = workplace.run(&["run", "--from", DAY, "--to", DAY]);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        assert!(!workplace.path("lake").exists());
    }
}
