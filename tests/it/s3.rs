use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cdrlake::internals::{BucketOptions, BucketStore, BucketUrl, LakeStore};
use object_store::TagSet;
use object_store::aws::AmazonS3Builder;

use crate::proxy::{Proxy, Trick, Which};
use crate::recovery::{DAYS, SHARDS_AND_A_WHOLE_RUN, run_at_once, serve_days};
use crate::server::Server;
use crate::support::{CANARY, DAY, Ran, Workplace, calls, for_each, skipped};

/// Variable with the S3 server for these tests: `host:port`. Its conditional writes must be
/// linearizable.
pub(crate) const ENDPOINT: &str = "TEST_S3_ENDPOINT";
/// A secret that must not occur in any output.
pub(crate) const SECRET: &str = "canary-secret-c1d7";
/// Lease duration in these tests: the shortest that the configuration allows.
const LEASE: &str = "lease = \"5s\"\n";

/// A separate bucket in the S3 server, behind a proxy.
pub(crate) struct Bucket {
    pub(crate) name: String,
    server: SocketAddr,
    pub(crate) proxy: Proxy,
}

impl Bucket {
    /// `None` if there is no S3 server. Prints that the test is skipped.
    pub(crate) fn create() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let Ok(endpoint) = std::env::var(ENDPOINT) else {
            skipped(ENDPOINT, "an S3 server (host:port)");
            return None;
        };
        let server = endpoint.parse().unwrap();
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let bucket = Self {
            name: format!("test-{process}-{number}"),
            server,
            proxy: Proxy::start(server),
        };
        let made = bucket.ask("PUT", "", "");
        assert!(made.lines().next().unwrap().contains("200"), "{made}");
        Some(bucket)
    }

    /// Sends a request to the server, bypassing the proxy.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.server).unwrap();
        let credential = "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=x";
        write!(
            stream,
            "{method} /{}{target} HTTP/1.1\r\nHost: {}\r\nAuthorization: {credential}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.name,
            self.server,
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The keys below `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let listing = self.ask("GET", &format!("?list-type=2&prefix={prefix}"), "");
        let keys = listing.split("<Key>").skip(1);
        keys.map(|key| key.split("</Key>").next().unwrap().to_owned())
            .collect()
    }

    /// Keys and etags below `prefix`.
    fn etags(&self, prefix: &str) -> Vec<(String, String)> {
        let keys = self.keys(prefix).into_iter();
        let etag = |key: &str| {
            let head = self.ask("HEAD", &format!("/{key}"), "").to_lowercase();
            let (_, rest) = head.split_once("etag: ").unwrap();
            rest.split("\r\n").next().unwrap().to_owned()
        };
        keys.map(|key| (key.clone(), etag(&key))).collect()
    }

    /// Lets the leases of crashed processes expire.
    pub(crate) fn expire_leases(&self) {
        for key in self.keys("some/lake/_cdrlake/leases") {
            self.ask("DELETE", &format!("/{key}"), "");
        }
    }

    /// Number of unfinished uploads.
    pub(crate) fn uploads(&self) -> usize {
        self.ask("GET", "?uploads", "")
            .matches("<UploadId>")
            .count()
    }

    /// A workplace with its lake in this bucket, behind the proxy.
    pub(crate) fn workplace(&self, server: &Server) -> Workplace {
        let workplace = Workplace::new(server);
        workplace.reconfigure(
            "[lake]\nurl = \"lake\"\n",
            &format!(
                "[lake]\nurl = \"s3://{}/some/lake\"\n{LEASE}\
                 [lake.options]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n",
                self.name,
                self.proxy.url()
            ),
        );
        workplace
    }

    /// The lake in this bucket as a store.
    pub(crate) fn store(&self, single_put_bytes: u64) -> Arc<dyn LakeStore> {
        let url: BucketUrl = format!("s3://{}/some/lake", self.name).parse().unwrap();
        let options = BucketOptions {
            single_put_bytes,
            part_bytes: 5 << 20,
            lease: Duration::from_secs(5),
            storage_class: None,
            tags: TagSet::default(),
        };
        // The test's own client needs a provider. Another test may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let bucket = AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.server))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(&self.name)
            .with_access_key_id("AKIDTEST")
            .with_secret_access_key(SECRET);
        let bucket = Arc::new(bucket.build().unwrap());
        let store = BucketStore::new(bucket, &url, options, &std::env::temp_dir());
        store.prepare().unwrap();
        Arc::new(store)
    }
}

/// A server with placed calls of one day, and a workplace with its lake in the bucket.
fn serving(bucket: &Bucket, records: u32) -> (Server, Workplace) {
    let server = Server::start();
    server
        .serve("placed", DAY, calls(0, records), u64::from(records))
        .serve("received", DAY, "", 0);
    let workplace = bucket.workplace(&server);
    (server, workplace)
}

fn run_placed(workplace: &Workplace, more: &[&str]) -> Ran {
    workplace.run_day(&[&["--direction", "placed"], more].concat())
}

#[track_caller]
fn assert_verified(workplace: &Workplace) {
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");
}

const TABLE_FILE: &str = "some/lake/cdrs/dt=2026-10-01/placed-2026-10-01.parquet";

#[test]
fn every_command_works_on_a_lake_in_a_bucket() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let server = Server::start();
    let broken = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3));
    server
        .serve("placed", DAY, broken, 4)
        .serve("received", DAY, "", 0);
    let workplace = bucket.workplace(&server);
    let checked = workplace.run(&["check"]);
    assert!(
        checked
            .stdout
            .contains("ok      lake: writable; conditional writes honoured"),
        "{checked:?}"
    );
    assert_eq!(bucket.keys(""), [] as [&str; 0], "a check leaves nothing");
    assert_eq!(workplace.run(&["status"]).status, 2, "there is no lake yet");

    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report = ran.report();
    assert_eq!(report.totals.counts.rows, 3);
    assert_eq!(bucket.keys("some/lake/cdrs"), [TABLE_FILE]);
    assert_eq!(bucket.keys("some/lake/_cdrlake/leases"), [] as [&str; 0]);
    let range = ["--from", DAY, "--to", DAY];
    let plan = workplace.run(&[&["plan"][..], &range].concat());
    assert!(
        plan.stdout.contains("0 slices due, 2 up to date"),
        "{plan:?}"
    );
    let status = workplace.run(&[&["status"][..], &range].concat());
    assert!(status.stdout.contains("2 slices closed"), "{status:?}");
    let verified = workplace.run(&["verify", "--source"]);
    assert_eq!(verified.status, 0, "{verified:?}");
    assert!(
        verified
            .stdout
            .contains("Compared 2 counts with the provider, 2 equal"),
        "{verified:?}"
    );
    let rejects = workplace.run(&["rejects"]);
    assert!(
        rejects.stdout.contains("1 record in 1 slice"),
        "{rejects:?}"
    );

    // Unchanged slices are neither written nor read.
    let before = bucket.etags("some/lake");
    bucket.proxy.requests();
    let again = workplace.run_day(&["--refresh"]);
    assert_eq!(again.status, 0, "{again:?}");
    let asked = bucket.proxy.requests();
    assert!(
        !asked
            .iter()
            .any(|one| one.starts_with("GET") && one.ends_with(".parquet")),
        "{asked:?}"
    );
    let after: Vec<_> = bucket
        .etags("some/lake")
        .into_iter()
        .filter(|(key, _)| before.iter().any(|(known, _)| known == key))
        .collect();
    assert_eq!(after, before);

    // An upload by another program, even of the same size, is detected in a listing and repaired.
    let size = bucket.ask("GET", &format!("/{TABLE_FILE}"), "").len();
    bucket.ask("PUT", &format!("/{TABLE_FILE}"), &"x".repeat(size));
    let plan = workplace.run(&[&["plan"][..], &range].concat());
    assert!(
        plan.stdout
            .contains("its file differs from its ledger entry"),
        "{plan:?}"
    );
    assert_eq!(workplace.run(&["verify"]).status, 1);
    let mended = workplace.run_day(&[]);
    assert_eq!(mended.status, 0, "{mended:?}");
    assert_verified(&workplace);

    // A foreign file in the table is found and removed.
    bucket.ask("PUT", "/some/lake/cdrs/stray.parquet", "x");
    let repaired = workplace.run(&["verify", "--repair"]);
    assert_eq!(repaired.status, 0, "{repaired:?}");
    assert_eq!(bucket.keys("some/lake/cdrs"), [TABLE_FILE]);

    // An empty object is damage too, even without a ledger entry.
    bucket.ask("PUT", &format!("/{TABLE_FILE}"), "");
    assert_eq!(workplace.run(&["verify"]).status, 1);
    bucket.ask(
        "DELETE",
        "/some/lake/_cdrlake/ledger/placed/2026-10-01.json",
        "",
    );
    assert_eq!(workplace.run(&["verify"]).status, 1);
    let mended = workplace.run_day(&[]);
    assert_eq!(mended.status, 0, "{mended:?}");
    assert_verified(&workplace);

    // A slice without rows has no object.
    server.serve("placed", DAY, "", 0);
    let shrunk = workplace.run_day(&["--refresh", "--allow-shrink"]);
    assert_eq!(shrunk.status, 0, "{shrunk:?}");
    assert_eq!(bucket.keys("some/lake/cdrs"), [] as [&str; 0]);
    assert_verified(&workplace);

    let inner = workplace.run_day(&["--lake", &format!("s3://{}/some/lake/cdrs/x", bucket.name)]);
    assert_eq!(inner.status, 2, "{inner:?}");
    assert!(inner.stderr.contains("inside the lake"), "{inner:?}");
}

#[test]
fn storage_class_tags_and_encryption_are_requested() {
    for single_put_bytes in ["16MiB", "1"] {
        let Some(bucket) = Bucket::create() else {
            return;
        };
        let (_server, workplace) = serving(&bucket, 3);
        workplace.configure_also(&format!(
            "storage_class = \"STANDARD_IA\"\ntags = \"team=data, pii=yes\"\n\
             server_side_encryption = \"AES256\"\n\
             [limits]\nsingle_put_bytes = \"{single_put_bytes}\"\n"
        ));
        let ran = run_placed(&workplace, &[]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let head = |key: &str| bucket.ask("HEAD", &format!("/{key}"), "").to_lowercase();
        let file = head(TABLE_FILE);
        assert!(file.contains("x-amz-storage-class: standard_ia"), "{file}");
        assert!(
            file.contains("x-amz-server-side-encryption: aes256"),
            "{file}"
        );
        let tags = bucket.ask("GET", &format!("/{TABLE_FILE}?tagging"), "");
        assert!(tags.contains("<Key>pii</Key><Value>yes</Value>"), "{tags}");
        let ledger = head("some/lake/_cdrlake/ledger/placed/2026-10-01.json");
        assert!(
            ledger.contains("x-amz-server-side-encryption: aes256"),
            "{ledger}"
        );
        assert!(!ledger.contains("standard_ia"), "{ledger}");
    }
}

#[test]
fn concurrent_runs_in_a_bucket_fetch_every_slice_once() {
    let two: &[&[&str]] = &[&[], &[]];
    let four: &[&[&str]] = &[&[], &[], &[], &[]];
    for commands in [two, four, &SHARDS_AND_A_WHOLE_RUN] {
        let Some(bucket) = Bucket::create() else {
            return;
        };
        let server = Server::start();
        serve_days(&server, 20, "0.027");
        let workplace = bucket.workplace(&server);
        // A slow server must not cause a lost lease.
        workplace.reconfigure(LEASE, "lease = \"60s\"\n");
        run_at_once(&server, &workplace, commands);
        let files = bucket.keys("some/lake/cdrs");
        assert_eq!(files.len(), 6, "{files:?}");
        assert_eq!(bucket.keys("some/lake/_cdrlake/leases"), [] as [&str; 0]);
    }
}

/// Every kind of request that a run sends to a store.
const KINDS: &[(&str, Which)] = &[
    ("create lake.json", |method, target| {
        method == "PUT" && target.ends_with("lake.json")
    }),
    ("read lake.json", |method, target| {
        method == "GET" && target.ends_with("lake.json")
    }),
    ("mark the run", |method, target| {
        method == "PUT" && target.contains("/running/")
    }),
    ("keep the report", |method, target| {
        method == "PUT" && is_report(target)
    }),
    ("unmark the run", |method, target| {
        method == "DELETE" && target.contains("/running/")
    }),
    ("probe", |method, target| {
        method == "PUT" && target.contains("probe-")
    }),
    ("take a lease", |method, target| {
        method == "PUT" && target.contains("leases/placed")
    }),
    ("give a lease back", |method, target| {
        method == "DELETE" && target.contains("leases/placed")
    }),
    ("write the ledger", |method, target| {
        method == "PUT" && target.contains("/ledger/")
    }),
    ("read the ledger", |method, target| {
        method == "GET" && target.contains("/ledger/")
    }),
    ("list", |method, target| {
        method == "GET" && target.contains("list-type=2")
    }),
    ("look at the table", |method, target| {
        method == "HEAD" && target.contains("/cdrs/")
    }),
    ("put a file", |method, target| {
        is_put_of_a_file(method, target)
    }),
    ("begin an upload", |method, target| {
        method == "POST" && target.contains("?uploads")
    }),
    ("put a part", |method, target| {
        method == "PUT" && target.contains("partNumber=")
    }),
    ("complete an upload", |method, target| {
        method == "POST" && target.contains("uploadId=")
    }),
    ("store rejects", |method, target| {
        method == "PUT" && target.contains("/rejects/")
    }),
    ("remove rejects", |method, target| {
        method == "DELETE" && target.contains("/rejects/")
    }),
    ("remove a file", |method, target| {
        method == "DELETE" && target.contains("/cdrs/")
    }),
];

fn is_report(target: &str) -> bool {
    target.contains("/runs/")
}

fn is_put_of_a_file(method: &str, target: &str) -> bool {
    method == "PUT" && target.ends_with(".parquet")
}

/// The kinds of requests of a run that uploads files in parts.
const UPLOADING: [&str; 3] = ["begin an upload", "put a part", "complete an upload"];

#[test]
fn a_lost_reply_to_any_request_changes_nothing() {
    for_each(KINDS.len() * 2, |k| {
        let (kind, which) = KINDS[k / 2];
        let trick = [Trick::DropReply, Trick::DropRequest][k % 2].clone();
        let name = format!("{kind}, {trick:?}");
        let Some(bucket) = Bucket::create() else {
            return;
        };
        let server = Server::start();
        let broken = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3));
        server.serve("placed", DAY, broken, 4);
        let workplace = bucket.workplace(&server);
        if UPLOADING.contains(&kind) {
            workplace.configure_also("[limits]\nsingle_put_bytes = \"1\"\n");
        }
        // New, changed and removed slices: each time the first two requests of the kind.
        for (records, total, more) in [
            (None, 3, &[][..]),
            (Some(calls(0, 5)), 5, &["--refresh"]),
            (Some(String::new()), 0, &["--refresh", "--allow-shrink"]),
        ] {
            if let Some(records) = records {
                server.serve("placed", DAY, records, total);
            }
            bucket.proxy.play(trick.clone(), 2, which);
            let ran = run_placed(&workplace, more);
            assert_eq!(ran.status, 0, "{name}: {ran:?}");
            assert_eq!(ran.report().totals.counts.rows, total, "{name}");
            // The run recognizes its own write.
            assert!(!ran.stderr.contains("took over"), "{name}: {ran:?}");
            bucket.proxy.play_fair();
            assert_verified(&workplace);
        }
        assert!(!bucket.proxy.played().is_empty(), "{name}");
        // An upload whose begin was never answered.
        let is_unknown = kind == "begin an upload" && matches!(trick, Trick::DropReply);
        assert_eq!(bucket.uploads() > 0, is_unknown, "{name}");
        let collected = workplace.run(&["gc"]);
        assert_eq!(collected.status, 0, "{name}: {collected:?}");
        assert_eq!(bucket.uploads(), 0, "{name}");
        let leases = bucket.keys("some/lake/_cdrlake/leases");
        assert_eq!(leases, [] as [&str; 0], "{name}");
    });
}

/// A run whose upload hangs halfway.
fn hanging_upload(bucket: &Bucket, workplace: &Workplace) -> std::process::Child {
    workplace.configure_also("[limits]\nsingle_put_bytes = \"1\"\n");
    bucket
        .proxy
        .play(Trick::Hang, usize::MAX, |method, target| {
            method == "PUT" && target.contains("partNumber=")
        });
    let child = workplace
        .command(&[
            "run",
            "--from",
            DAY,
            "--to",
            DAY,
            "--direction",
            "placed",
            "--refresh",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while bucket.proxy.played().is_empty() {
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_run_killed_during_an_upload_changes_nothing_and_gc_removes_the_leftovers() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (server, workplace) = serving(&bucket, 3);
    assert_eq!(run_placed(&workplace, &[]).status, 0);
    let before = bucket.etags("some/lake/cdrs");
    server.serve("placed", DAY, calls(0, 5), 5);
    let mut child = hanging_upload(&bucket, &workplace);
    child.kill().unwrap();
    child.wait().unwrap();
    bucket.proxy.play_fair();
    assert_eq!(bucket.etags("some/lake/cdrs"), before);
    assert_eq!(bucket.uploads(), 1);
    assert_verified(&workplace);
    let collected = workplace.run(&["gc", "--format", "json"]);
    assert_eq!(collected.status, 0, "{collected:?}");
    let removed = collected.json()["removed"].to_string();
    assert!(
        removed.contains("an upload of cdrs/dt=2026-10-01/placed"),
        "{removed}"
    );
    assert!(
        removed.contains("leases/placed-2026-10-01.lock"),
        "{removed}"
    );
    assert_eq!(bucket.uploads(), 0);
    assert_eq!(bucket.etags("some/lake/cdrs"), before);
    let ran = run_placed(&workplace, &["--refresh"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.report().totals.counts.rows, 5);
    assert_verified(&workplace);
}

#[test]
fn the_next_slice_is_fetched_during_an_upload() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (server, workplace) = serving(&bucket, 3);
    server.serve("received", DAY, calls(10, 3), 3);
    workplace.configure_also("[limits]\nsingle_put_bytes = \"1\"\n");
    bucket
        .proxy
        .play(Trick::Hang, usize::MAX, |method, target| {
            method == "PUT" && target.contains("partNumber=")
        });
    let mut child = workplace
        .command(&["run", "--from", DAY, "--to", DAY, "--requests", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // With one request at a time, the second slice is fetched while the first one's upload hangs.
    let mut is_uploading = false;
    while !is_uploading || server.requests("/v1/cdrs/all").len() < 2 {
        assert_eq!(child.try_wait().unwrap(), None, "the run ended early");
        is_uploading |= !bucket.proxy.played().is_empty();
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_next_run_takes_over_the_lease_of_a_killed_run() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (_server, workplace) = serving(&bucket, 3);
    let mut child = hanging_upload(&bucket, &workplace);
    child.kill().unwrap();
    child.wait().unwrap();
    bucket.proxy.play_fair();
    assert!(!bucket.keys("some/lake/_cdrlake/leases").is_empty());
    let ran = run_placed(&workplace, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.report().totals.counts.rows, 3);
    assert_verified(&workplace);
    let left = bucket.keys("some/lake/_cdrlake/leases");
    assert_eq!(
        left,
        [] as [&str; 0],
        "the lease of the killed run is deleted too"
    );
}

#[test]
fn an_interrupted_upload_is_aborted_and_changes_nothing() {
    for signal in ["-INT", "-TERM"] {
        let Some(bucket) = Bucket::create() else {
            return;
        };
        let (server, workplace) = serving(&bucket, 3);
        assert_eq!(run_placed(&workplace, &[]).status, 0);
        let before = bucket.etags("some/lake/cdrs");
        let ledger = bucket.etags("some/lake/_cdrlake/ledger");
        server.serve("placed", DAY, calls(0, 5), 5);
        let child = hanging_upload(&bucket, &workplace);
        let id = child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert_eq!(bucket.uploads(), 0);
        assert_eq!(bucket.etags("some/lake/cdrs"), before);
        assert_eq!(bucket.etags("some/lake/_cdrlake/ledger"), ledger);
        assert_eq!(bucket.keys("some/lake/_cdrlake/leases"), [] as [&str; 0]);
        bucket.proxy.play_fair();
        assert_verified(&workplace);
    }
}

/// Errors of a store, the requests that fail, and the expected message.
const REFUSALS: &[(Trick, Which, &str)] = &[
    (
        Trick::Answer(403, "AccessDenied", "Access Denied"),
        |method, _| method == "PUT",
        "Grant s3:PutObject on the objects",
    ),
    (
        Trick::Answer(403, "AccessDenied", "Access Denied"),
        |method, target| method == "GET" && target.contains("list-type"),
        "Grant s3:ListBucket on the bucket",
    ),
    (
        Trick::Answer(403, "AccessDenied", "Access Denied"),
        |method, target| method == "GET" && !target.contains("list-type"),
        "Grant s3:GetObject on the objects",
    ),
    (
        Trick::Answer(403, "AccessDenied", "Access Denied"),
        |method, _| method == "DELETE",
        "Grant s3:DeleteObject on the objects",
    ),
    (
        Trick::Answer(404, "NoSuchBucket", "The specified bucket does not exist"),
        |_, _| true,
        "Create the bucket, or correct lake.url",
    ),
    (
        Trick::Answer(
            301,
            "PermanentRedirect",
            "The bucket is in this region: eu-west-1",
        ),
        |_, _| true,
        "set lake.options.region",
    ),
    (
        Trick::Answer(
            400,
            "AuthorizationHeaderMalformed",
            "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
        ),
        |_, _| true,
        "expecting 'eu-west-1'. The bucket is in another region: set lake.options.region",
    ),
    (
        Trick::Answer(400, "ExpiredToken", "The provided token has expired."),
        |_, _| true,
        "400 ExpiredToken: The provided token has expired. The credentials have expired: renew \
         them and run again",
    ),
    (
        Trick::Answer(403, "RequestTimeTooSkewed", "The difference is too large."),
        |_, _| true,
        "Correct this machine's clock",
    ),
];

#[test]
fn an_error_of_the_store_names_the_missing_permission_or_option() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (_server, workplace) = serving(&bucket, 3);
    for (trick, which, message) in REFUSALS {
        bucket.proxy.play(trick.clone(), usize::MAX, *which);
        for command in [&["run", "--from", DAY, "--to", DAY][..], &["check"]] {
            let ran = workplace.run(command);
            let (out, err) = (&ran.stdout, &ran.stderr);
            assert!(
                out.contains(message) || err.contains(message),
                "{message}: {ran:?}"
            );
            assert_eq!(ran.status, 2, "{ran:?}");
        }
        assert_eq!(bucket.keys("some/lake/cdrs"), [] as [&str; 0]);
    }
    // `check` also tries the permissions for large files.
    let denied = Trick::Answer(403, "AccessDenied", "Access Denied");
    bucket.proxy.play(denied, usize::MAX, |method, target| {
        method == "DELETE" && target.contains("uploadId=")
    });
    let checked = workplace.run(&["check"]);
    let message = "Grant s3:AbortMultipartUpload on the objects";
    assert!(checked.stdout.contains(message), "{checked:?}");
    bucket.proxy.play_fair();
    assert_eq!(
        workplace.run_day(&[]).status,
        0,
        "no leftover blocks the next run"
    );
    assert_verified(&workplace);
}

#[test]
fn expired_credentials_or_a_deleted_bucket_end_a_run_without_loss() {
    for (trick, message) in [
        (
            Trick::Answer(400, "ExpiredToken", "The provided token has expired."),
            "The credentials have expired",
        ),
        (
            Trick::Answer(404, "NoSuchBucket", "The specified bucket does not exist"),
            "Create the bucket",
        ),
    ] {
        for which in [
            // At the first file, or at the first ledger entry.
            (|method, target| is_put_of_a_file(method, target)) as Which,
            |method, target| method == "PUT" && target.contains("/ledger/"),
        ] {
            let Some(bucket) = Bucket::create() else {
                return;
            };
            let server = Server::start();
            serve_days(&server, 20, "0.027");
            let workplace = bucket.workplace(&server);
            workplace.configure_also("[limits]\nmemory = \"64MiB\"\n");
            bucket.proxy.play(trick.clone(), usize::MAX, which);
            let range = ["run", "--from", DAYS[0], "--to", DAYS[2], "--requests", "1"];
            let ran = workplace.run(&range);
            assert_eq!(ran.status, 1, "{ran:?}");
            assert!(
                ran.stderr.contains("error: the run was stopped: "),
                "{ran:?}"
            );
            assert!(ran.stderr.contains(message), "{ran:?}");
            let fetched = server.requests("/v1/cdrs/all").len();
            assert!(fetched < 6, "not every slice is fetched in vain: {fetched}");
            bucket.proxy.play_fair();
            let ran = workplace.run(&range);
            assert_eq!(ran.status, 0, "{ran:?}");
            assert_eq!(bucket.keys("some/lake/cdrs").len(), 6);
            assert_verified(&workplace);
        }
    }
}

#[test]
fn throttled_requests_are_retried() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (_server, workplace) = serving(&bucket, 3);
    let slow_down = Trick::Answer(503, "SlowDown", "Please reduce your request rate.");
    bucket.proxy.play(slow_down, 5, |_, _| true);
    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(bucket.proxy.played().len(), 5);
    assert_verified(&workplace);
}

#[test]
fn a_refused_part_fails_its_slice_and_leaves_no_upload() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (_server, workplace) = serving(&bucket, 3);
    workplace.configure_also("[limits]\nsingle_put_bytes = \"1\"\n");
    let refused = Trick::Answer(400, "InvalidPart", "This part is not accepted.");
    bucket.proxy.play(refused, usize::MAX, |method, target| {
        method == "PUT" && target.contains("partNumber=")
    });
    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let error = ran.json()["slices"][0]["error"].to_string();
    assert!(
        error.contains(&format!(
            "cannot upload s3://{}/{TABLE_FILE}: 400 InvalidPart: This part is not accepted",
            bucket.name
        )),
        "{error}"
    );
    assert_eq!(bucket.uploads(), 0);
    assert_eq!(bucket.keys("some/lake/cdrs"), [] as [&str; 0]);
}

#[test]
fn a_store_without_conditional_writes_is_reported_and_serves_one_run_at_a_time() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (server, workplace) = serving(&bucket, 3);
    bucket
        .proxy
        .play(Trick::WithoutConditions, usize::MAX, |method, _| {
            method == "PUT"
        });
    let checked = workplace.run(&["check"]);
    assert!(
        checked
            .stdout
            .contains("writable, but the store ignores conditional writes"),
        "{checked:?}"
    );
    let sharded = workplace.run_day(&["--shard", "1/2"]);
    assert_eq!(sharded.status, 2, "{sharded:?}");
    assert!(
        sharded
            .stderr
            .contains("must not share the slices of this lake. Run once, without --shard"),
        "{sharded:?}"
    );

    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let warnings = ran.report().warnings;
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("the store ignores conditional writes")),
        "{warnings:?}"
    );
    assert_verified(&workplace);
    server.serve("placed", DAY, calls(0, 5), 5);
    assert_eq!(workplace.run_day(&["--refresh"]).status, 0);
    assert_verified(&workplace);

    // During another run, this one does nothing.
    let (marker, lease) = (
        "some/lake/_cdrlake/running/20260101T000000Z-0123abcd",
        "some/lake/_cdrlake/leases/run-20260101T000000Z-0123abcd.lock",
    );
    bucket.ask("PUT", &format!("/{marker}"), "");
    let alive = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut renewals = 0;
            while alive.load(Ordering::Relaxed) {
                renewals += 1;
                let content =
                    format!("{{\"holder\":\"other\",\"renewals\":{renewals},\"expiry_ms\":5000}}");
                bucket.ask("PUT", &format!("/{lease}"), &content);
            }
        });
        let refused = workplace.run_day(&["--refresh"]);
        alive.store(false, Ordering::Relaxed);
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(
            refused
                .stderr
                .contains("run 20260101T000000Z-0123abcd may still be active"),
            "{refused:?}"
        );
    });
    // After the other run has died, it is ignored.
    let ran = workplace.run_day(&["--refresh"]);
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn no_log_level_prints_a_secret() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    let (_server, workplace) = serving(&bucket, 3);
    let denied = Trick::Answer(
        403,
        "SignatureDoesNotMatch",
        "The request signature does not match.</Message>\
         <StringToSign>AWS4-HMAC-SHA256</StringToSign><Message>",
    );
    for trick in [None, Some(denied), Some(Trick::DropReply)] {
        bucket.proxy.play_fair();
        if let Some(trick) = trick {
            bucket.proxy.play(trick, 3, |_, _| true);
        }
        for command in [
            &["run", "--from", DAY, "--to", DAY, "--refresh"][..],
            &["gc"],
            &["verify"],
        ] {
            let output = workplace
                .command(command)
                .env("CDRLAKE_LOG", "trace")
                .output()
                .unwrap();
            for text in [&output.stdout, &output.stderr] {
                let text = String::from_utf8_lossy(text);
                for secret in [
                    SECRET,
                    CANARY,
                    "Signature=",
                    "X-Amz-Signature",
                    "StringToSign",
                ] {
                    assert!(!text.contains(secret), "{secret}: {text}");
                }
            }
        }
    }
}
