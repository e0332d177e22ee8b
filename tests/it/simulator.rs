use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{CANARY, DAY, Ran, Workplace, read};

/// `cdrlake simulate` as a process of its own.
pub(crate) struct Simulator {
    child: Child,
    pub(crate) url: String,
}

impl Simulator {
    pub(crate) fn start(more: &[&str]) -> Self {
        let workplace = Workplace::with_url("http://127.0.0.1:1");
        let volume: &[&str] = if more.contains(&"--calls-per-day") {
            &[]
        } else {
            &["--calls-per-day", "500"]
        };
        let arguments = [&["simulate", "--port", "0", "--key", CANARY], volume, more].concat();
        let mut child = workplace
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut url)
            .unwrap();
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }

    /// Status and body of a GET without a bearer key.
    fn get(&self, target: &str) -> (u16, String) {
        self.get_as(target, None)
    }

    pub(crate) fn get_as(&self, target: &str, key: Option<&str>) -> (u16, String) {
        // Already installed is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let request = reqwest::Client::new().get(format!("{}{target}", self.url));
            let request = match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            };
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    }

    /// The JSON of an authorised GET.
    fn json(&self, target: &str) -> Value {
        let (status, body) = self.get_as(target, Some(CANARY));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The records of an authorised stream.
    fn stream(&self, target: &str) -> Vec<Value> {
        let (status, body) = self.get_as(target, Some(CANARY));
        assert_eq!(status, 200, "{body}");
        body.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn ids(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["call_id"].as_str().unwrap())
        .collect()
}

#[test]
fn the_pages_of_the_list_hold_the_calls_of_the_stream() {
    let simulator = Simulator::start(&[]);
    let query = format!("from={DAY}&to={DAY}&type=placed&disposition=all");
    let stream = simulator.stream(&format!("/v1/cdrs/all?{query}"));
    let first = simulator.json(&format!("/v1/cdrs?{query}"));
    let total = first["pagination"]["total"].as_u64().unwrap();
    assert_eq!(total, stream.len() as u64);
    assert_eq!(
        (
            &first["pagination"]["current_page"],
            &first["pagination"]["per_page"]
        ),
        (&1.into(), &25.into())
    );
    assert_eq!(first["items"].as_array().unwrap().len(), 25);
    let mut paged = Vec::new();
    for page in 1..=total.div_ceil(100) {
        let list = simulator.json(&format!("/v1/cdrs?{query}&page={page}&per_page=100"));
        assert_eq!(list["pagination"]["total_pages"], total.div_ceil(100));
        paged.extend(list["items"].as_array().unwrap().clone());
    }
    assert_eq!(paged, stream);
    assert_eq!(
        simulator.stream(&format!("/v1/cdr/all?{query}")),
        stream,
        "the old path"
    );
    assert_eq!(
        simulator.json(&format!("/v1/cdr?{query}")),
        first,
        "the old path"
    );
    let distinct: BTreeSet<&str> = ids(&stream).into_iter().collect();
    assert_eq!(distinct.len(), stream.len());
}

#[test]
fn a_filter_has_the_same_effect_on_count_and_stream() {
    let simulator = Simulator::start(&[]);
    let query = format!("from={DAY}&to=2026-10-02&type=placed");
    let all = simulator.stream(&format!("/v1/cdrs/all?{query}&disposition=all"));
    let one = all[3].clone();
    let text = |field: &str| one[field].as_str().unwrap().to_owned();
    let contains = |field: &str, part: &str| {
        all.iter()
            .filter(|record| record[field].as_str().unwrap().contains(part))
            .count()
    };
    for (filter, expected) in [
        (String::new(), contains("disposition", "answered")),
        (
            "&disposition=busy".to_owned(),
            contains("disposition", "busy"),
        ),
        (
            format!("&disposition=all&from_search={}", text("from")),
            contains("from", &text("from")),
        ),
        (
            "&disposition=all&to_search=33".to_owned(),
            contains("to", "33"),
        ),
        (
            format!("&disposition=all&sip_trunk={}", text("sip_trunk")),
            contains("sip_trunk", &text("sip_trunk")),
        ),
        (format!("&disposition=all&uuid={}", text("uuid")), 1),
    ] {
        let stream = simulator.stream(&format!("/v1/cdrs/all?{query}{filter}"));
        let list = simulator.json(&format!("/v1/cdrs?{query}{filter}&per_page=1"));
        assert_eq!(
            (stream.len(), list["pagination"]["total"].as_u64()),
            (expected, Some(expected as u64)),
            "{filter}"
        );
        assert!(expected > 0, "{filter}");
    }
}

#[test]
fn the_simulator_answers_errors_as_the_api_does() {
    let simulator = Simulator::start(&[]);
    let query = format!("from={DAY}&to={DAY}&type=placed");
    let unauthorized = (
        401,
        "{\"error\":true,\"message\":\"Unauthorized\",\"success\":false}".to_owned(),
    );
    assert_eq!(
        simulator.get(&format!("/v1/cdrs/all?{query}")),
        unauthorized
    );
    assert_eq!(
        simulator.get_as(&format!("/v1/cdrs?{query}"), Some("wrong")),
        unauthorized
    );
    assert_eq!(
        simulator.get(&format!("/v1/cdrs?{query}&appid={CANARY}")).0,
        200,
        "the former way"
    );
    for (target, parameter) in [
        ("/v1/cdrs/all?to=2026-10-01&type=placed", "from"),
        (
            "/v1/cdrs/all?from=2026-10-01&to=2026-13-01&type=placed",
            "to",
        ),
        ("/v1/cdrs?from=2026-10-02&to=2026-10-01&type=placed", "to"),
        ("/v1/cdrs?from=2026-10-01&to=2026-10-01", "type"),
        (
            "/v1/cdrs?from=2026-10-01&to=2026-10-01&type=placed&disposition=none",
            "disposition",
        ),
        (
            "/v1/cdrs?from=2026-10-01&to=2026-10-01&type=placed&page=0",
            "page",
        ),
    ] {
        let message = format!(
            "{{\"message\":\"Missing or invalid parameter {parameter}\",\"success\":false}}"
        );
        assert_eq!(simulator.get_as(target, Some(CANARY)), (400, message));
    }
    assert_eq!(simulator.get_as("/v2/nothing", Some(CANARY)).0, 404);
}

fn run(simulator: &Simulator, more: &[&str]) -> (Workplace, Ran) {
    let workplace = Workplace::with_url(&simulator.url);
    let ran = workplace.run_day(more);
    (workplace, ran)
}

#[test]
fn transient_faults_do_not_change_the_content_of_the_lake() {
    let reference = Simulator::start(&["--key-order", "shuffled"]);
    let (expected, ran) = run(&reference, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let digest = |workplace: &Workplace, direction: &str| {
        let entry =
            std::fs::read(workplace.path(format!("lake/_cdrlake/ledger/{direction}/{DAY}.json")))
                .unwrap();
        serde_json::from_slice::<Value>(&entry).unwrap()["committed"]["digest"].clone()
    };
    for faults in [
        &["--fault", "unavailable=1"][..],
        &["--fault", "cut=100"],
        &["--fault", "error-object=7"],
        &["--fault", "paged"],
        &["--fault", "duplicates=10"],
        &["--fault", "unavailable=1", "--fault", "cut=3"],
        &["--prerender", "2026-10-01..2026-10-01"],
    ] {
        let (workplace, ran) = run(&Simulator::start(faults), &[]);
        assert_eq!(ran.status, 0, "{faults:?}: {ran:?}");
        for direction in ["placed", "received"] {
            assert_eq!(
                digest(&workplace, direction),
                digest(&expected, direction),
                "{faults:?}"
            );
        }
    }
    let rows = read(&expected.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet")));
    assert!(rows.num_rows() > 100);
}

#[test]
fn persistent_faults_are_reported() {
    let (workplace, ran) = run(&Simulator::start(&["--fault", "short=5"]), &[]);
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.contains("--reconcile warn"), "{ran:?}");
    assert_eq!(workplace.table(), [] as [&str; 0]);
    let (_workplace, ran) = run(&Simulator::start(&["--fault", "broken=100"]), &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.report().totals.counts.rejected > 0 && !ran.report().warnings.is_empty());
}

#[test]
fn stream_and_list_make_the_same_lake() {
    let simulator = Simulator::start(&["--calls-per-day", "1234"]);
    let digests = ["stream", "pages"].map(|via| {
        let workplace = Workplace::with_url(&simulator.url);
        let arguments = ["run", "--from", "2026-09-28", "--to", DAY, "--via", via];
        let ran = workplace.run(&[&arguments[..], &["--format", "json"]].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        let report = ran.report();
        assert!(report.totals.counts.rows > 4_000);
        workplace.digests()
    });
    assert_eq!((digests[0].len(), &digests[0]), (8, &digests[1]));
}
