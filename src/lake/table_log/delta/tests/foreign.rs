//! Damaged logs, and logs that another program changed.

use super::*;

/// The error of reading the log.
async fn error(log: &DeltaLog) -> String {
    log.read().await.unwrap_err().to_string()
}

/// Writes a commit of another program.
async fn write(log: &DeltaLog, version: u64, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    log.put(&commit_path(version), lines.join("\n")).await;
}

/// A log of one version.
async fn new_log() -> (DeltaLog, Snapshot) {
    let log = log();
    let (snapshot, _) = log.fill(1).await;
    (log, snapshot)
}

/// The end of the error about a log that cannot be read.
const REMEDY: &str = "Move the directory _delta_log out of the lake. The next commit writes the \
                      log again from the ledger, without its history";

#[tokio::test(start_paused = true)]
async fn a_damaged_log_is_reported_with_what_mends_it() {
    let log = log();
    log.fill(53).await;
    let commit = |version| format!("_delta_log/{version:020}.json is damaged: ");
    let remedy = &*format!(". {REMEDY}");
    let text = log.text(&commit_path(52)).await.unwrap();
    let cut = text.get(..text.len() - 9).unwrap().to_owned();
    log.put(&commit_path(52), cut).await;
    let column = text.lines().last().unwrap().len() - 8;
    let expected = format!("line 3 is cut off (column {column}){remedy}");
    assert_eq!(error(&log).await, commit(52) + &expected);

    log.put(&commit_path(52), "").await;
    assert_eq!(error(&log).await, commit(52) + "it is empty" + remedy);
    log.put(&commit_path(52), "mist").await;
    assert_eq!(
        error(&log).await,
        commit(52) + "line 1 is not JSON (column 1)" + remedy
    );
    log.put(&commit_path(52), text).await;

    log.remove_object(&commit_path(51)).await;
    let expected = format!("it is missing, but later commits exist{remedy}");
    assert_eq!(error(&log).await, commit(51) + &expected);
    log.put(&checkpoint_path(51), "PAR1PAR1").await;
    let found = error(&log).await;
    assert!(
        found.contains("00051.checkpoint.parquet is damaged: "),
        "{found}"
    );
    assert!(found.ends_with(remedy), "{found}");

    // Without the directory, the next commit creates the log again.
    for name in log.names().await {
        let path = Path::from(format!("_delta_log/{name}"));
        log.remove_object(&path).await;
    }
    assert!(log.read().await.unwrap().is_none());
    log.fill(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_after_the_log_was_removed_is_a_conflict() {
    let (log, snapshot) = new_log().await;
    log.remove_object(&commit_path(0)).await;
    let conflict = log
        .commit(Some(&snapshot), &difference(&["a"], &[]), &info(1))
        .await;
    assert!(matches!(conflict.unwrap(), Committed::Conflict));
    assert_eq!(log.names().await, [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn features_of_newer_protocols_are_refused() {
    let metadata = |key: &str, value: &str| {
        let mut metadata = schema::metadata(PeriodUnit::Day, None, new_uuid, 0);
        metadata
            .configuration
            .insert(key.to_owned(), value.to_owned());
        json!({"metaData": metadata})
    };
    let features = json!({
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors"],
    });
    let listed = json!({"minReaderVersion": 1, "minWriterVersion": 2, "readerFeatures": ["a"]});
    let constraints = json!({"minReaderVersion": 1, "minWriterVersion": 3});
    let cases = [
        (
            json!({"protocol": features}),
            "version 3 of the protocol for readers and version 7 for writers",
        ),
        (
            json!({"protocol": constraints}),
            "version 1 of the protocol for readers and version 3 for writers",
        ),
        (json!({"protocol": listed}), "the table features a"),
        (
            metadata("delta.columnMapping.mode", "name"),
            "column mapping by name",
        ),
    ];
    for (action, feature) in cases {
        let (log, _) = new_log().await;
        write(&log, 1, &[action]).await;
        write(&log, 2, &[json!({"commitInfo": {}})]).await;
        let expected = format!(
            "_delta_log/00000000000000000001.json uses {feature}, which cdrlake does not support. \
             {REMEDY}"
        );
        assert_eq!(error(&log).await, expected);
    }
    for name in [
        "00000000000000000001.checkpoint.0000000001.0000000002.parquet",
        "00000000000000000001.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json",
    ] {
        let (log, _) = new_log().await;
        log.put(&Path::from(format!("_delta_log/{name}")), "").await;
        let found = error(&log).await;
        assert!(
            found.contains("uses a checkpoint of several files"),
            "{found}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn changed_metadata_is_restored() {
    let (log, base) = new_log().await;
    let original = base.state.metadata.clone().unwrap();
    let mut changed = original.clone();
    changed.partition_columns.clear();
    let properties = [
        ("delta.checkpointInterval", "10"),
        ("delta.appendOnly", "true"),
        ("team", "billing"),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    changed.configuration.extend(properties);
    let mut schema: Value = serde_json::from_str(&changed.schema_string).unwrap();
    let fields = schema["fields"].as_array_mut().unwrap();
    fields[1]["type"] = "long".into();
    fields[0]["name"] = "number".into();
    changed.schema_string = schema.to_string();
    let protocol = json!({"minReaderVersion": 1, "minWriterVersion": 1});
    write(
        &log,
        1,
        &[json!({"protocol": protocol, "metaData": changed})],
    )
    .await;

    let found = log.read().await.unwrap().unwrap();
    let expected = [
        "Its protocol versions are 1 and 1, not 1 and 2.",
        "It has no column call_id.",
        "Its column parent_call_id has another type or comment.",
        "It has a column number too many.",
        "It is not partitioned by dt alone.",
        "Its property delta.checkpointInterval is not 50.",
        "It has the property delta.appendOnly.",
    ];
    assert_eq!(DeltaLog::deviations(&found), expected);
    let restored = log
        .commit(Some(&found), &Difference::default(), &info(2))
        .await;
    let restored = restored.unwrap().done();
    assert_eq!(DeltaLog::deviations(&restored), [] as [String; 0]);
    let read = log.read().await.unwrap().unwrap();
    assert_eq!(content(&read), content(&restored));
    // The ID and properties of other programs are kept.
    let mut expected = original;
    expected
        .configuration
        .insert("team".to_owned(), "billing".to_owned());
    assert_eq!(read.state.metadata, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn columns_in_another_order_are_restored() {
    let (log, base) = new_log().await;
    let mut changed = base.state.metadata.clone().unwrap();
    let mut schema: Value = serde_json::from_str(&changed.schema_string).unwrap();
    schema["fields"].as_array_mut().unwrap().swap(0, 1);
    changed.schema_string = schema.to_string();
    write(&log, 1, &[json!({"metaData": changed})]).await;
    let found = log.read().await.unwrap().unwrap();
    let expected = ["Its columns have another order."];
    assert_eq!(DeltaLog::deviations(&found), expected);
}

#[tokio::test(start_paused = true)]
async fn files_of_other_programs_are_live_until_they_are_removed() {
    let (log, _) = new_log().await;
    let foreign = [
        "s3://other/a%20b.parquet",
        "../outside.parquet",
        "cdrs/dt=2026-10-01/a%20b.parquet",
    ];
    let add = |path: &&str| {
        json!({"add": {
            "path": path, "partitionValues": {"dt": "2026-10-01"}, "size": 1,
            "modificationTime": 1, "dataChange": true, "tags": null, "unknown": [1],
        }})
    };
    let mut actions: Vec<Value> = foreign.iter().map(add).collect();
    actions.push(json!({"txn": {"appId": "app", "version": 7}}));
    actions.push(json!({"cdc": {"path": "x", "partitionValues": {}, "size": 1}}));
    actions.push(json!({"domainMetadata": {"domain": "x", "configuration": "", "removed": false}}));
    write(&log, 1, &actions).await;
    let found = log.read().await.unwrap().unwrap();
    let names = [
        "s3://other/a%20b.parquet",
        "../outside.parquet",
        "cdrs/dt=2026-10-01/a b.parquet",
    ];
    for name in names {
        assert_eq!(DeltaLog::live(&found)[name].rows, None);
    }
    let change = Difference {
        add: Vec::new(),
        remove: names.map(str::to_owned).into(),
    };
    let after = log
        .commit(Some(&found), &change, &info(2))
        .await
        .unwrap()
        .done();
    assert_eq!(log.live_paths().await, paths(&["0", "base"]));
    // The log names a removed file as the other program did.
    let commit = log.text(&commit_path(2)).await.unwrap();
    for path in foreign {
        assert!(commit.contains(&format!("\"{path}\"")), "{path}");
    }
    // The state of other applications is kept.
    log.expire(&after, Timestamp::MAX).await.unwrap().done();
    let read = log.read().await.unwrap().unwrap();
    assert!(
        content(&read)
            .1
            .contains("{\"txn\":{\"appId\":\"app\",\"version\":7}}")
    );
}

#[tokio::test(start_paused = true)]
async fn altered_files_are_added_again() {
    let alterations: [fn(&mut Value); 5] = [
        |add| add["deletionVector"] = json!({"storageType": "u", "cardinality": 1}),
        |add| add["partitionValues"] = json!({"dt": "2026-10-02"}),
        |add| add["partitionValues"]["other"] = json!("1"),
        |add| add["stats"] = json!("{\"numRecords\":10,\"minValues\":{\"from_number\":\"1\"}}"),
        |add| add["stats"] = json!("mist"),
    ];
    for alter in alterations {
        let (log, _) = new_log().await;
        let mut altered = serde_json::to_value(add(&file("base"))).unwrap();
        alter(&mut altered);
        write(&log, 1, &[json!({"add": altered})]).await;
        let found = log.read().await.unwrap().unwrap();
        assert!(
            DeltaLog::live(&found)[&path("base")].is_altered,
            "{altered}"
        );
        assert!(!DeltaLog::live(&found)[&path("0")].is_altered);
        let change = difference(&["base"], &["base"]);
        log.commit(Some(&found), &change, &info(2))
            .await
            .unwrap()
            .done();
        let mended = log.read().await.unwrap().unwrap();
        assert!(!DeltaLog::live(&mended)[&path("base")].is_altered);
    }
}

/// The file was written by deltalake 1.6.6 for a log of two versions: the first adds three files,
/// the second removes one.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_delta_rs_is_read() {
    let log = log();
    let fixture = include_bytes!("../../../../../tests/data/delta-rs.checkpoint.parquet");
    log.put(&checkpoint_path(1), &fixture[..]).await;
    let found = log.read().await.unwrap().unwrap();
    let live = LiveFile {
        rows: Some(10),
        bytes: 1000,
        is_altered: false,
    };
    let expected = [path("a"), path("b b")].map(|path| (path, live.clone()));
    assert_eq!(*DeltaLog::live(&found), LiveFiles::from(expected));
    let (_, actions, _) = content(&found);
    assert!(actions.contains("{\"txn\":{\"appId\":\"app\",\"version\":7}}"));
    assert!(actions.contains("placed-2026-10-01-b%20b.parquet"));
    assert!(found.state.has_removed());
    // It contains the removed file.
    log.expire(&found, Timestamp::MAX).await.unwrap().done();
    let rewritten = log.read().await.unwrap().unwrap();
    assert_eq!(rewritten.state.live, found.state.live);
    assert!(!rewritten.state.has_removed());
}

#[tokio::test(start_paused = true)]
async fn the_partition_column_of_a_lake_of_months_is_the_first_day_of_the_month() {
    let (log, base) = new_log().await;
    let months = DeltaLog::new(Arc::clone(&log.store), PeriodUnit::Month);
    let comment = "First day of the month under which the provider lists the call";
    let text = |snapshot: &Snapshot| snapshot.state.metadata.clone().unwrap().schema_string;
    assert!(!text(&base).contains(comment));
    // The commit that ends a conversion to months also changes the comment.
    let found = months.read().await.unwrap().unwrap();
    let expected = ["Its column dt has another type or comment."];
    assert_eq!(DeltaLog::deviations(&found), expected);
    let nothing = Difference::default();
    let restored = months.commit(Some(&found), &nothing, &info(2)).await;
    let restored = restored.unwrap().done();
    assert_eq!(DeltaLog::deviations(&restored), [] as [String; 0]);
    assert!(text(&restored).contains(comment));
}
