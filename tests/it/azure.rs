use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cdrlake::internals::{BucketOptions, BucketStore, BucketUrl, LakeStore};
use object_store::TagSet;
use object_store::azure::MicrosoftAzureBuilder;

use crate::conformance::{SINGLE_PUT_BYTES, conform};
use crate::recovery::{SHARDS_AND_A_WHOLE_RUN, run_at_once, serve_days};
use crate::server::Server;
use crate::support::{DAY, Workplace, block_on, calls, skipped};

/// Variable with the Azure server for these tests: the address of its blob service.
const ENDPOINT: &str = "TEST_AZURE_ENDPOINT";

/// The emulator's well-known account and key:
/// <https://learn.microsoft.com/azure/storage/common/storage-use-azurite>
const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A separate container in the emulator.
struct Container {
    name: String,
    endpoint: String,
}

impl Container {
    /// `None` if there is no emulator. Prints that the test is skipped.
    fn create() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let Ok(endpoint) = std::env::var(ENDPOINT) else {
            skipped(ENDPOINT, "a blob service (http://host:port/account)");
            return None;
        };
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let name = format!("test-{process}-{number}");
        // The library cannot create containers, so a script does.
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/python/azure_container.py"
        );
        let made = Command::new("python3")
            .args([script, &endpoint, &name, KEY])
            .status()
            .unwrap();
        assert!(made.success());
        Some(Self { name, endpoint })
    }

    fn store(&self) -> Arc<dyn LakeStore> {
        let url: BucketUrl = format!("az://{}/some/lake", self.name).parse().unwrap();
        let options = BucketOptions {
            single_put_bytes: SINGLE_PUT_BYTES,
            part_bytes: 5 << 20,
            lease: Duration::from_secs(5),
            storage_class: None,
            tags: TagSet::default(),
        };
        // The test's own client needs a provider. Another test may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let container = MicrosoftAzureBuilder::new()
            .with_endpoint(self.endpoint.clone())
            .with_allow_http(true)
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_container_name(&self.name);
        let container = Arc::new(container.build().unwrap());
        let store = BucketStore::new(container, &url, options, &std::env::temp_dir());
        store.prepare().unwrap();
        Arc::new(store)
    }

    fn workplace(&self, server: &Server) -> Workplace {
        let workplace = Workplace::new(server);
        workplace.reconfigure(
            "[lake]\nurl = \"lake\"\n",
            &format!(
                "[lake]\nurl = \"az://{}/some/lake\"\nlease = \"5s\"\n\
                 [lake.options]\nendpoint = \"{}\"\naccount_name = \"{ACCOUNT}\"\n",
                self.name, self.endpoint
            ),
        );
        workplace
    }
}

#[test]
fn an_azure_server_conforms() {
    let Some(container) = Container::create() else {
        return;
    };
    block_on(conform(&|| container.store(), true));
}

#[test]
fn a_lake_in_a_container_is_filled_changed_read_and_cleared() {
    for single_put_bytes in ["16MiB", "1"] {
        let Some(container) = Container::create() else {
            return;
        };
        let server = Server::start();
        server
            .serve("placed", DAY, calls(0, 3), 3)
            .serve("received", DAY, "", 0);
        let workplace = container.workplace(&server);
        workplace.configure_also(&format!(
            "[limits]\nsingle_put_bytes = \"{single_put_bytes}\"\n"
        ));
        let checked = workplace.run(&["check"]);
        let fine = "ok      lake: writable; conditional writes honoured";
        assert!(checked.stdout.contains(fine), "{checked:?}");
        for (records, more) in [
            (3, &[][..]),
            (5, &["--refresh"]),
            (0, &["--refresh", "--allow-shrink"]),
        ] {
            server.serve("placed", DAY, calls(0, records), u64::from(records));
            let ran = workplace.run_day(more);
            assert_eq!(ran.status, 0, "{ran:?}");
            assert_eq!(ran.report().totals.counts.rows, u64::from(records));
            for command in [
                &["verify"][..],
                &["rejects"],
                &["gc"],
                &["status", "--from", DAY],
            ] {
                let ran = workplace.run(command);
                assert_eq!(ran.status, 0, "{ran:?}");
            }
            let plan = workplace.run(&["plan", "--from", DAY, "--to", DAY]);
            assert!(
                plan.stdout.contains("0 slices due, 2 up to date"),
                "{plan:?}"
            );
        }
        let missing = workplace.run(&["check", "--lake", "az://no-such-container/x"]);
        assert_eq!(missing.status, 2, "{missing:?}");
        assert!(
            missing.stdout.contains("ContainerNotFound")
                && missing.stdout.contains("Create the bucket"),
            "{missing:?}"
        );
    }
}

#[test]
fn concurrent_runs_in_a_container_fetch_every_slice_once() {
    let two: &[&[&str]] = &[&[], &[]];
    for commands in [two, &SHARDS_AND_A_WHOLE_RUN] {
        let Some(container) = Container::create() else {
            return;
        };
        let server = Server::start();
        serve_days(&server, 20, "0.027");
        let workplace = container.workplace(&server);
        // A slow server must not cause a lost lease.
        workplace.reconfigure("lease = \"5s\"\n", "lease = \"60s\"\n");
        run_at_once(&server, &workplace, commands);
    }
}
