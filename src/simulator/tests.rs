//! Tests of the simulated API's handlers, without a socket.

use super::*;

const KEY: &str = "key";

fn api(seed: u64, faults: &[&str]) -> Arc<Simulator> {
    let generator = Generator {
        seed,
        calls_per_day: 200,
        key_order: KeyOrder::Fixed,
    };
    let faults = faults.iter().map(|fault| fault.parse::<Fault>().unwrap());
    Arc::new(Simulator::new(generator, KEY, faults.collect()))
}

/// A query for the placed calls of one day. `more` adds or replaces parameters.
fn query(more: &[(&str, &str)]) -> Query<HashMap<String, String>> {
    let day = [
        ("from", "2026-10-01"),
        ("to", "2026-10-01"),
        ("type", "placed"),
        ("disposition", "all"),
        ("appid", KEY),
    ];
    let pairs = day.iter().chain(more);
    Query(
        pairs
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// The status and the body, or the error that cut it off.
async fn read(response: Response) -> (StatusCode, Result<String, String>) {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    let text = body.map(|body| String::from_utf8(body.to_vec()).unwrap());
    (status, text.map_err(|error| error.to_string()))
}

async fn stream(
    api: &Arc<Simulator>,
    more: &[(&str, &str)],
) -> (StatusCode, Result<String, String>) {
    read(stream_calls(State(Arc::clone(api)), HeaderMap::new(), query(more)).await).await
}

async fn list(api: &Arc<Simulator>, more: &[(&str, &str)]) -> (StatusCode, serde_json::Value) {
    let answer = list_calls(State(Arc::clone(api)), HeaderMap::new(), query(more)).await;
    let (status, body) = read(answer).await;
    (status, serde_json::from_str(&body.unwrap()).unwrap())
}

#[tokio::test]
async fn the_stream_and_the_pages_of_the_list_hold_the_same_calls() {
    let api = api(1, &[]);
    let (status, body) = stream(&api, &[]).await;
    let body = body.unwrap();
    let streamed: Vec<serde_json::Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(status, StatusCode::OK);
    assert!(streamed.len() > 50, "{}", streamed.len());
    let mut listed = Vec::new();
    for page in 1.. {
        let (_, body) = list(&api, &[("page", &page.to_string()), ("per_page", "30")]).await;
        let pagination = &body["pagination"];
        assert_eq!(pagination["total"], streamed.len());
        assert_eq!(pagination["total_pages"], streamed.len().div_ceil(30));
        let items = body["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        listed.extend_from_slice(items);
    }
    assert_eq!(listed, streamed);
}

#[tokio::test]
async fn a_filter_selects_calls_and_their_count() {
    let api = api(1, &[]);
    let (_, all) = list(&api, &[("per_page", "1000")]).await;
    let all = all["items"].as_array().unwrap().clone();
    let call = &all[all.len() / 2];
    for (parameter, field) in [
        ("disposition", "disposition"),
        ("from_search", "from"),
        ("to_search", "to"),
        ("uuid", "uuid"),
    ] {
        let wanted = call[field].as_str().unwrap();
        let expected: Vec<_> = all.iter().filter(|call| call[field] == wanted).collect();
        let asked = [(parameter, wanted), ("per_page", "1000")];
        let (_, found) = list(&api, &asked).await;
        assert_eq!(found["pagination"]["total"], expected.len(), "{parameter}");
        let items: Vec<_> = found["items"].as_array().unwrap().iter().collect();
        assert_eq!(items, expected, "{parameter}");
    }
    // Without a disposition the API lists answered calls.
    let (_, answered) = list(&api, &[("disposition", ""), ("per_page", "1000")]).await;
    let items = answered["items"].as_array().unwrap();
    assert!(!items.is_empty() && items.len() < all.len());
    assert!(items.iter().all(|call| call["disposition"] == "answered"));
}

#[tokio::test]
async fn a_request_without_the_key_or_with_a_wrong_parameter_is_refused() {
    let api = api(1, &[]);
    let bearer = |key: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        headers
    };
    // A bearer key takes precedence over `appid`.
    for (key, expected) in [(KEY, StatusCode::OK), ("other", StatusCode::UNAUTHORIZED)] {
        let answer = stream_calls(State(Arc::clone(&api)), bearer(key), query(&[])).await;
        assert_eq!(answer.status(), expected);
    }
    assert_eq!(stream(&api, &[("appid", "other")]).await.0, 401);
    for (name, value) in [
        ("from", "2026-02-30"),
        ("to", "2026-09-30"),
        ("type", "both"),
        ("disposition", "nonsense"),
        ("page", "0"),
        ("per_page", "many"),
    ] {
        let (status, body) = list(&api, &[(name, value)]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}");
        let message = body["message"].as_str().unwrap();
        assert!(message.ends_with(name), "{message}");
    }
}

#[tokio::test]
async fn each_fault_affects_the_intended_streams() {
    let whole = stream(&api(1, &[]), &[]).await.1.unwrap();
    let lines: Vec<&str> = whole.lines().collect();

    let unavailable = api(1, &["unavailable=2"]);
    let statuses = [
        stream(&unavailable, &[]).await.0,
        stream(&unavailable, &[]).await.0,
        stream(&unavailable, &[]).await.0,
    ];
    assert_eq!(statuses.map(|status| status.as_u16()), [503, 503, 200]);

    let cut = api(1, &["cut=3"]);
    assert!(stream(&cut, &[]).await.1.is_err());
    assert_eq!(stream(&cut, &[]).await.1.as_ref(), Ok(&whole));

    let error = api(1, &["error-object=2"]);
    let body = stream(&error, &[]).await.1.unwrap();
    assert_eq!(body.lines().take(2).collect::<Vec<_>>(), lines[..2]);
    assert_eq!(body.lines().count(), 3);
    assert!(body.lines().last().unwrap().contains("Internal error"));
    assert_eq!(stream(&error, &[]).await.1.as_ref(), Ok(&whole));

    let short = api(1, &["short=2"]);
    let body = stream(&short, &[]).await.1.unwrap();
    let expected = &lines[..lines.len() - 2];
    assert_eq!(body.lines().collect::<Vec<_>>(), expected);

    let paged = api(1, &["paged"]);
    let body = stream(&paged, &[("page", "2")]).await.1.unwrap();
    assert_eq!(body.lines().collect::<Vec<_>>(), lines[25..50]);

    let twice = api(1, &["duplicates=10", "broken=7"]);
    let body = stream(&twice, &[]).await.1.unwrap();
    let sent: Vec<&str> = body.lines().collect();
    assert_eq!(sent.len(), lines.len() + lines.len() / 10);
    assert_eq!(sent[6], lines[6].split_at(lines[6].len() / 2).0);
    assert_eq!((sent[9], sent[10]), (lines[9], lines[9]));
}

/// The statuses and lengths of bodies of successive requests.
async fn outcomes(seed: u64) -> Vec<(u16, Result<usize, String>)> {
    let api = api(seed, &["flaky=2"]);
    let mut outcomes = Vec::new();
    for _ in 0..40 {
        // A stalled answer never ends.
        let answer = stream_calls(State(Arc::clone(&api)), HeaderMap::new(), query(&[])).await;
        let read = tokio::time::timeout(std::time::Duration::from_secs(1), read(answer)).await;
        outcomes.push(match read {
            Ok((status, body)) => (status.as_u16(), body.map(|body| body.len())),
            Err(_) => (0, Err("stalled".to_owned())),
        });
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn the_seed_determines_the_failures_of_a_flaky_api() {
    let first = outcomes(1).await;
    assert_eq!(first, outcomes(1).await);
    assert_ne!(first, outcomes(2).await);
    let whole = stream(&api(1, &[]), &[]).await.1.unwrap().len();
    let good = first.iter().filter(|outcome| **outcome == (200, Ok(whole)));
    assert!((8..32).contains(&good.count()), "{first:?}");
}

#[tokio::test]
async fn prerendered_days_equal_generated_ones() {
    let made = api(3, &[]);
    let day = parse_day("2026-10-01").unwrap();
    let rendered = Simulator::new(made.generator().clone(), KEY, Faults::default());
    let rendered = Arc::new(rendered.with_rendered(day..=day).unwrap());
    for more in [
        &[][..],
        &[("type", "received")],
        &[("from", "2026-09-30")],
        &[("disposition", "busy")],
    ] {
        let expected = stream(&made, more).await;
        assert!(!expected.1.as_ref().unwrap().is_empty(), "{more:?}");
        assert_eq!(stream(&rendered, more).await, expected, "{more:?}");
    }
}
