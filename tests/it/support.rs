use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use cdrlake::RunReport;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::server::{Answer, STREAM, Server, count};

pub(crate) const DAY: &str = "2026-10-01";
/// An API key that must not occur in any output.
pub(crate) const CANARY: &str = "canary-key-5f1d";

/// The variable of `quality.fail_reject_ratio`.
pub(crate) const FAIL_REJECT_RATIO: &str = "CDRLAKE_QUALITY_FAIL_REJECT_RATIO";

/// A temporary directory with a configuration, in which the binary runs.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub(crate) directory: tempfile::TempDir,
}

/// Exit status and output of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The run report on standard output.
    pub(crate) fn report(&self) -> RunReport {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The run report as plain JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Workplace {
    /// A directory whose pipeline.toml names `server`, with quick retries.
    pub(crate) fn new(server: &Server) -> Self {
        Self::with_url(&server.url())
    }

    pub(crate) fn with_url(url: &str) -> Self {
        let workplace = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        workplace.configure(&format!(
            "[source]\nurl = \"{url}\"\napi_key = {{ env = \"TEST_KEY\" }}\n\
             retry_base = \"1ms\"\nretry_max = \"5ms\"\nmax_attempts = 3\n\
             [lake]\nurl = \"lake\"\n"
        ));
        workplace
    }

    pub(crate) fn configure(&self, toml: &str) {
        std::fs::write(self.path("pipeline.toml"), toml).unwrap();
    }

    /// Appends to the configuration.
    pub(crate) fn configure_also(&self, toml: &str) {
        let so_far = std::fs::read_to_string(self.path("pipeline.toml")).unwrap();
        self.configure(&format!("{so_far}\n{toml}"));
    }

    /// Changes a line of the configuration.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let so_far = std::fs::read_to_string(self.path("pipeline.toml")).unwrap();
        assert!(so_far.contains(from), "{so_far}");
        self.configure(&so_far.replace(from, to));
    }

    /// Gives a lake that does not exist yet these [`TABLES`](crate::table_logs::TABLES).
    pub(crate) fn with_tables(&self, tables: &str) {
        if !tables.is_empty() {
            let formats: Vec<String> = tables.split(',').map(|it| format!("\"{it}\"")).collect();
            let formats = format!("url = \"lake\"\ntables = [{}]", formats.join(", "));
            self.reconfigure("url = \"lake\"", &formats);
        }
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        // Canonical, because the temporary directory may be a link.
        self.directory.path().canonicalize().unwrap().join(path)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cdrlake"));
        command
            .current_dir(self.directory.path())
            .args(arguments)
            .stdin(Stdio::null());
        command.env("TEST_KEY", CANARY).env_remove("RUST_BACKTRACE");
        // In a test's small day, one broken record may exceed the ratio.
        command.env(FAIL_REJECT_RATIO, "1");
        // For lakes in a bucket.
        command
            .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .env("AWS_SECRET_ACCESS_KEY", crate::s3::SECRET)
            .env("AZURE_STORAGE_ACCOUNT_KEY", crate::azure::KEY);
        command
    }

    /// Runs the binary and checks that its output has no key and no panic.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(output(self.command(arguments)))
    }

    /// Runs [`DAY`] with a JSON report.
    pub(crate) fn run_day(&self, more: &[&str]) -> Ran {
        self.run(
            &[
                &["run", "--from", DAY, "--to", DAY, "--format", "json"],
                more,
            ]
            .concat(),
        )
    }

    /// The digest of each slice in the ledger. Asserts that all are proven complete.
    pub(crate) fn digests(&self) -> BTreeMap<String, Value> {
        let files = self.lake_files().into_iter();
        let entries = files.filter(|(path, _)| path.contains("/ledger/"));
        let digest = |(path, entry): (String, Vec<u8>)| {
            let entry: Value = serde_json::from_slice(&entry).unwrap();
            assert_eq!(entry["committed"]["reconcile"], "match", "{path}: {entry}");
            (path, entry["committed"]["digest"].clone())
        };
        entries.map(digest).collect()
    }

    /// Every file of the lake with its content, except run reports and locks.
    pub(crate) fn lake_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.path("lake")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path
                        .strip_prefix(self.path("lake"))
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned();
                    // Excludes reports, but not markers of running runs.
                    let is_report = name.starts_with("_cdrlake/runs/");
                    if !is_report && !name.starts_with("_cdrlake/locks/") {
                        // A link may be dangling.
                        let content = if path.is_symlink() {
                            Vec::new()
                        } else {
                            std::fs::read(&path).unwrap()
                        };
                        found.insert(name, content);
                    }
                }
            }
        }
        found
    }

    /// Names of the files in the table.
    pub(crate) fn table(&self) -> Vec<String> {
        self.lake_files()
            .into_keys()
            .filter(|name| name.starts_with("cdrs/"))
            .collect()
    }

    /// The rows of one direction of [`DAY`].
    pub(crate) fn rows(&self, direction: &str) -> RecordBatch {
        read(&self.path(format!("lake/cdrs/dt={DAY}/{direction}-{DAY}.parquet")))
    }

    /// The rejects of one direction of [`DAY`]; `kind` is `.failed` for those of a failed attempt.
    pub(crate) fn rejects(&self, direction: &str, kind: &str) -> Vec<Value> {
        let name = format!("lake/_cdrlake/rejects/{direction}/{DAY}{kind}.ndjson.zst");
        let file = std::fs::File::open(self.path(name)).unwrap();
        let text = std::io::read_to_string(zstd::Decoder::new(file).unwrap()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

pub(crate) fn ran(output: Output) -> Ran {
    let ran = Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(CANARY), "the key leaked: {text}");
        assert!(
            !text.contains(crate::s3::SECRET),
            "the secret leaked: {text}"
        );
        assert!(!text.contains("panicked"), "{text}");
    }
    ran
}

/// Reads a whole Parquet file as one batch.
pub(crate) fn read(path: &Path) -> RecordBatch {
    let file =
        std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = std::sync::Arc::clone(builder.schema());
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

/// One direction only.
pub(crate) const PLACED: &[&str] = &["--direction", "placed"];

/// A server with calls of [`DAY`], and a workplace for it.
pub(crate) fn serving(records: &str, total: u64) -> (Server, Workplace) {
    let server = Server::start();
    server
        .serve("placed", DAY, records, total)
        .serve("received", DAY, "", 0);
    let workplace = Workplace::new(&server);
    (server, workplace)
}

/// A scripted stream whose day has `total` calls.
pub(crate) fn scripted(
    total: u64,
    stream: impl IntoIterator<Item = Answer>,
) -> (Workplace, Server) {
    let server = Server::start();
    server.on(STREAM, stream).on("/v1/cdrs?", [count(total)]);
    (Workplace::new(&server), server)
}

/// Runs one slice against a scripted stream.
pub(crate) fn run_scripted(
    total: u64,
    stream: impl IntoIterator<Item = Answer>,
) -> (Workplace, Server, Ran) {
    let (workplace, server) = scripted(total, stream);
    let ran = workplace.run_day(PLACED);
    (workplace, server, ran)
}

/// Calls of one day, one per line, with ids from `first` on.
pub(crate) fn calls(first: u32, count: u32) -> String {
    let call = |id| {
        format!(
            concat!(
                r#"{{"date":"{day}T10:00:00.000Z","from":"1302555{id:04}","to":"33170363950","#,
                r#""disposition":"answered","duration":60,"destination":"France","#,
                r#""per_minute":"0.027","charge":"0.027","call_id":"call-{id}"}}"#,
                "\n"
            ),
            day = DAY,
            id = id
        )
    };
    (first..first + count).map(call).collect()
}

/// Takes the lease of a slice, like another run.
pub(crate) fn hold_lease(workplace: &Workplace) -> std::fs::File {
    let leases = workplace.path("lake/_cdrlake/leases");
    std::fs::create_dir_all(&leases).unwrap();
    let lease = std::fs::File::create(leases.join(format!("placed-{DAY}.lock"))).unwrap();
    lease.lock().unwrap();
    lease
}

/// Limit for one run of the binary, on a very slow machine.
const DEADLINE: Duration = Duration::from_mins(5);

/// Runs a command to its end. If it hangs, the test fails.
pub(crate) fn output(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(child.spawn().unwrap())
}

/// The status and output of a process. A process that hangs fails its test.
///
/// If `TEST_MESSAGES` names a directory, the output is also kept there, one file for each process,
/// for `tests/messages.py`.
pub(crate) fn ended(child: std::process::Child) -> Output {
    let process = child.id().to_string();
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = done.recv_timeout(DEADLINE).map_or_else(
        |_| {
            Command::new("kill")
                .args(["-9", &process])
                .status()
                .unwrap();
            panic!("hung: {process}: {:?}", done.recv());
        },
        Result::unwrap,
    );
    if let Some(directory) = std::env::var_os("TEST_MESSAGES") {
        let file = Path::new(&directory).join(process);
        std::fs::write(file, [&output.stdout[..], &output.stderr].concat()).unwrap();
    }
    output
}

/// The seed of a test: `TEST_SEED`, or a random one. Prints it.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|_| fastrand::u64(..));
    println!("TEST_SEED={seed} repeats the random choices of this test");
    seed
}

/// Whether sweeps try all their cases: if `TEST_SWEEPS` is `whole`, as in CI.
pub(crate) fn is_whole() -> bool {
    std::env::var_os("TEST_SWEEPS").is_some_and(|sweeps| sweeps == "whole")
}

/// Calls `each` for the cases of a sweep: all, or a third of them, drawn with [`seed`].
pub(crate) fn for_each_case<T: Sync>(cases: Vec<T>, each: impl Fn(&T) + Sync) {
    for_each_case_of(1, cases, each);
}

/// The same for one of so many sweeps, which together have a third of their cases on average.
pub(crate) fn for_each_case_of<T: Sync>(sweeps: usize, cases: Vec<T>, each: impl Fn(&T) + Sync) {
    let share = if is_whole() { 1 } else { 3 * sweeps };
    for_each_share(share, cases, each);
}

/// The same for one case in so many.
pub(crate) fn for_each_share<T: Sync>(share: usize, mut cases: Vec<T>, each: impl Fn(&T) + Sync) {
    if share > 1 {
        fastrand::Rng::with_seed(seed()).shuffle(&mut cases);
        cases.truncate(cases.len().div_ceil(share));
    }
    for_each(cases.len(), |k| each(&cases[k]));
}

/// Two threads for each processor, because some wait.
pub(crate) fn threads() -> usize {
    2 * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Calls `each` for 0 to `count`, on so many [`threads`].
pub(crate) fn for_each(count: usize, each: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let k = next.fetch_add(1, Ordering::SeqCst);
                    if k >= count {
                        break;
                    }
                    each(k);
                }
            });
        }
    });
}

/// Copies a directory recursively.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs asynchronous work, then drops its remaining tasks, like the end of a process.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(work);
    drop(runtime);
    result
}

/// Prints that a test is skipped because `variable` does not name `what`. Fails if `TEST_REQUIRED`
/// contains the variable.
pub(crate) fn skipped(variable: &str, what: &str) {
    let required = std::env::var("TEST_REQUIRED").unwrap_or_default();
    assert!(
        !required.contains(variable),
        "{variable} does not name {what}"
    );
    println!("skipped: {variable} does not name {what}");
}
