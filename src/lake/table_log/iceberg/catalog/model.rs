//! A catalog in memory, as strict as the specification, with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value as Json, json};
use url::Url;

use super::client::{Answer, Request, Transport};
use super::{Catalog, CatalogOptions, Credential};
use crate::lake::table_log::iceberg::METADATA;
use crate::lake::table_log::new_uuid;
use crate::store::LakeStore;

/// Its credential, which no message may contain.
const CREDENTIAL: &str = "client:CANARY-secret";
const LAKE: &str = "s3://bucket/lake/";

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status, and nothing is done.
    Status(u16),
    /// It is done, and the answer is this status.
    DoneBut(u16),
    /// It is done, and the answer is lost.
    Lost,
}

#[derive(Default)]
struct State {
    namespaces: BTreeSet<String>,
    table: Option<Json>,
    /// The number of its metadata files.
    files: u32,
    token: Option<String>,
    /// Method and path of each request.
    requests: Vec<String>,
    faults: BTreeMap<usize, Fault>,
    is_away: bool,
    refuses_to_register: bool,
    /// The time of a table that was prepared, but not created yet.
    staged_ms: Option<i64>,
}

/// The catalog.
pub(crate) struct Model {
    store: Arc<dyn LakeStore>,
    state: Mutex<State>,
}

impl Model {
    pub(crate) fn new(store: Arc<dyn LakeStore>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { store, state })
    }

    /// The catalog as a process has it.
    pub(crate) fn catalog(self: &Arc<Self>) -> Arc<Catalog> {
        let options = CatalogOptions {
            url: Url::parse("https://catalog.example/iceberg").unwrap(),
            warehouse: Some("warehouse".to_owned()),
            namespace: vec!["telephony".to_owned(), "eu".to_owned()],
            table: "cdrs".to_owned(),
            credential: Some(Credential(Arc::new(|| Ok(SecretString::from(CREDENTIAL))))),
            scope: "catalog".to_owned(),
            token_url: None,
        };
        let transport: Arc<dyn Transport> = Arc::<Self>::clone(self);
        Arc::new(Catalog::with_transport(options, transport))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    pub(crate) fn refuse_to_register(&self) {
        self.state().refuses_to_register = true;
    }

    /// The next token is another one.
    pub(crate) fn expire_token(&self) {
        self.state().token = Some("another".to_owned());
    }

    /// The request with this number from now on, from 0, fails.
    pub(crate) fn fail(&self, at: usize, fault: Fault) {
        let mut state = self.state();
        let at = state.requests.len() + at;
        state.faults = [(at, fault)].into();
    }

    /// No request fails any more.
    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Changes so far: each writes a metadata file.
    pub(crate) fn changes(&self) -> u32 {
        self.state().files
    }

    /// The metadata of the table.
    pub(crate) fn table(&self) -> Json {
        self.state()
            .table
            .clone()
            .expect("the catalog has the table")
    }

    /// Replaces the table, as an administrator can.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut Json)) {
        edit(self.state().table.as_mut().unwrap());
    }

    /// The snapshot of the branch main.
    pub(crate) fn main(&self) -> Option<i64> {
        let table = self.state().table.clone()?;
        table["refs"]["main"]["snapshot-id"].as_i64()
    }

    /// The ids of its snapshots.
    pub(crate) fn snapshots(&self) -> BTreeSet<i64> {
        let table = self.table();
        let snapshots = table["snapshots"].as_array().unwrap().iter();
        let ids = snapshots.map(|snapshot| snapshot["snapshot-id"].as_i64().unwrap());
        ids.collect()
    }

    /// Paths in the lake of the manifest lists that readers of the catalog need.
    pub(crate) fn manifest_lists(&self) -> Vec<Path> {
        let table = self.table();
        let snapshots = table["snapshots"].as_array().unwrap().iter();
        let lists = snapshots.map(|snapshot| {
            let uri = snapshot["manifest-list"].as_str().unwrap();
            Path::from(uri.strip_prefix(LAKE).unwrap())
        });
        lists.collect()
    }

    /// The path in the lake of the newest metadata file that it wrote.
    pub(crate) fn own_file(&self) -> Path {
        let number = self.state().files;
        Path::from(format!("{METADATA}/{number:05}-{UUID}.metadata.json"))
    }

    /// Another program commits a snapshot with the current files.
    pub(crate) fn commit_foreign(&self, id: i64) {
        let mut state = self.state();
        let table = state.table.as_mut().unwrap();
        let main = table["refs"]["main"]["snapshot-id"].clone();
        let snapshots = table["snapshots"].as_array().unwrap().iter();
        let mut snapshots = snapshots.filter(|snapshot| snapshot["snapshot-id"] == main);
        let mut snapshot = snapshots.next().unwrap().clone();
        snapshot["snapshot-id"] = json!(id);
        snapshot["sequence-number"] = json!(table["last-sequence-number"].as_i64().unwrap() + 1);
        snapshot["timestamp-ms"] = json!(table["last-updated-ms"].as_i64().unwrap() + 3_600_000);
        let updates = json!([
            {"action": "add-snapshot", "snapshot": snapshot},
            {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": id},
        ]);
        for update in updates.as_array().unwrap() {
            apply(table, update).unwrap();
        }
    }

    async fn answer(&self, request: &Request) -> Answer {
        let path = request.url.path().strip_prefix("/iceberg/v1/").unwrap();
        let body = request.body.as_ref();
        let text = body.map_or("", |(_, body)| body.expose_secret());
        if path == "oauth/tokens" {
            assert!(text.contains("client_id=client&client_secret=CANARY-secret&scope=catalog"));
            let token = format!("CANARY-token-{}", new_uuid());
            self.state().token = Some(token.clone());
            return answer(200, &json!({"access_token": token, "token_type": "bearer"}));
        }
        let token = request
            .token
            .as_ref()
            .map(|it| it.expose_secret().to_owned());
        if token != self.state().token {
            let token = token.unwrap_or_default();
            return refusal(401, &format!("{token} of {CREDENTIAL} has expired"));
        }
        if path == "config" {
            assert_eq!(request.url.query(), Some("warehouse=warehouse"));
            return answer(
                200,
                &json!({"defaults": {}, "overrides": {"prefix": "a/b"}}),
            );
        }
        let path = path.strip_prefix("a/b/").unwrap();
        let body: Json = serde_json::from_str(text).unwrap_or_default();
        let of_table = "namespaces/telephony%1Feu/";
        match (&request.method, path) {
            (&Method::POST, "namespaces") => {
                let levels = body["namespace"].as_array().unwrap().iter();
                let levels: Vec<_> = levels.map(|level| level.as_str().unwrap()).collect();
                let is_new = self.state().namespaces.insert(levels.join("%1F"));
                answer(if is_new { 200 } else { 409 }, &json!({}))
            }
            (_, path) if !path.starts_with(of_table) => {
                let name = path.strip_prefix("namespaces/").unwrap();
                let is_known = self.state().namespaces.contains(name);
                answer(if is_known { 200 } else { 404 }, &json!({}))
            }
            (method, path) => {
                let rest = path.strip_prefix(of_table).unwrap();
                if !self.state().namespaces.contains("telephony%1Feu") {
                    return refusal(404, "no such namespace");
                }
                match (method, rest) {
                    (&Method::POST, "register") => self.register(&body).await,
                    (&Method::POST, "tables") => self.stage(&body),
                    (&Method::POST, "tables/cdrs") => self.commit(&body).await,
                    (&Method::GET, "tables/cdrs") => match &self.state().table {
                        Some(table) => answer(200, &json!({"metadata": table})),
                        None => refusal(404, "no such table"),
                    },
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    async fn register(&self, body: &Json) -> Answer {
        if self.state().refuses_to_register {
            return refusal(400, "metadata-location must be in the warehouse");
        }
        let uri = body["metadata-location"].as_str().unwrap();
        let path = Path::from(uri.strip_prefix(LAKE).unwrap());
        let found = self.store.read(&path).await.unwrap().unwrap();
        let mut state = self.state();
        if state.table.is_some() {
            return refusal(409, "the table exists");
        }
        state.table = Some(serde_json::from_slice(&found.bytes).unwrap());
        answer(200, &json!({}))
    }

    fn stage(&self, body: &Json) -> Answer {
        assert_eq!(body["stage-create"], json!(true));
        let mut state = self.state();
        if state.table.is_some() {
            return refusal(409, "the table exists");
        }
        let properties = &body["properties"];
        assert_eq!(properties["format-version"], "2");
        let staged_ms = jiff::Timestamp::now().as_millisecond() + 3_600_000;
        let staged_ms = *state.staged_ms.get_or_insert(staged_ms);
        let spec = json!({"spec-id": 0, "fields": body["partition-spec"]["fields"]});
        let metadata = json!({
            "format-version": 2,
            "table-uuid": new_uuid(),
            "location": "s3://warehouse/cdrs",
            "last-sequence-number": 0,
            "last-updated-ms": staged_ms,
            "last-column-id": 16,
            "current-schema-id": 0,
            "schemas": [body["schema"]],
            "default-spec-id": 0,
            "partition-specs": [spec],
            "last-partition-id": 1000,
            "default-sort-order-id": 0,
            "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": properties,
            "current-snapshot-id": -1,
            "snapshots": [],
            "refs": {},
        });
        answer(200, &json!({"metadata": metadata}))
    }

    async fn commit(&self, body: &Json) -> Answer {
        let file = {
            let mut state = self.state();
            let requirements = body["requirements"].as_array().unwrap();
            let is_new = requirements[0]["type"] == "assert-create";
            if is_new && state.table.is_some() {
                return refusal(409, "the table exists");
            }
            let base = if is_new {
                state.staged_ms.map(table_without_parts)
            } else {
                state.table.clone()
            };
            let Some(mut table) = base else {
                return refusal(404, "no such table");
            };
            for requirement in requirements {
                let is_met = match requirement["type"].as_str().unwrap() {
                    "assert-create" => true,
                    "assert-table-uuid" => requirement["uuid"] == table["table-uuid"],
                    "assert-ref-snapshot-id" => {
                        requirement["snapshot-id"] == table["refs"]["main"]["snapshot-id"]
                    }
                    other => panic!("{other}"),
                };
                if !is_met {
                    return refusal(409, "a requirement failed");
                }
            }
            for update in body["updates"].as_array().unwrap() {
                if let Err(problem) = apply(&mut table, update) {
                    return refusal(400, &problem);
                }
            }
            if let Some(part) = PARTS.iter().find(|part| table[**part].is_null()) {
                return refusal(400, &format!("the new table has no {part}"));
            }
            state.table = Some(table);
            state.files += 1;
            state.table.as_ref().unwrap().to_string()
        };
        let path = self.own_file();
        self.store.create(&path, file.into()).await.unwrap();
        answer(200, &json!({}))
    }
}

const UUID: &str = "00000000-0000-4000-8000-000000000000";

/// What every table has, once it is created.
const PARTS: [&str; 7] = [
    "table-uuid",
    "format-version",
    "location",
    "current-schema-id",
    "default-spec-id",
    "default-sort-order-id",
    "properties",
];

/// The base of a transaction that creates a table, as Java's catalogs have it: nothing of what was
/// prepared, but its time.
fn table_without_parts(staged_ms: i64) -> Json {
    json!({
        "last-sequence-number": 0,
        "last-updated-ms": staged_ms,
        "last-column-id": 0,
        "schemas": [],
        "partition-specs": [],
        "last-partition-id": 999,
        "sort-orders": [],
        "current-snapshot-id": -1,
        "snapshots": [],
        "refs": {},
    })
}

/// What a table has several of, of which one is current.
struct Items {
    list: &'static str,
    id: &'static str,
    current: &'static str,
}

const SCHEMAS: Items = Items {
    list: "schemas",
    id: "schema-id",
    current: "current-schema-id",
};
const SPECS: Items = Items {
    list: "partition-specs",
    id: "spec-id",
    current: "default-spec-id",
};
const SORT_ORDERS: Items = Items {
    list: "sort-orders",
    id: "order-id",
    current: "default-sort-order-id",
};

impl Items {
    /// Adds an item as the last one: under the next id from 0, whatever id it names, or under its
    /// id if it is there already.
    fn add(&self, table: &mut Json, item: &Json) {
        let list = table[self.list].as_array_mut().unwrap();
        let known = list.iter().position(|it| it["fields"] == item["fields"]);
        let item = if let Some(known) = known {
            list.remove(known)
        } else {
            let last = list.iter().filter_map(|it| it[self.id].as_i64()).max();
            let mut item = item.clone();
            item[self.id] = json!(last.map_or(0, |last| last + 1));
            item
        };
        list.push(item);
    }

    /// Makes the item with this id the current one, or the last one if the id is negative.
    fn set(&self, table: &mut Json, id: &Json) -> Result<(), String> {
        let list = table[self.list].as_array().unwrap();
        let found = if id.as_i64() < Some(0) {
            list.last()
        } else {
            list.iter().find(|it| it[self.id] == *id)
        };
        let unknown = || format!("{} have no {} {id}", self.list, self.id);
        table[self.current] = found.ok_or_else(unknown)?[self.id].clone();
        Ok(())
    }
}

/// Applies an update as strictly as a catalog may.
fn apply(table: &mut Json, update: &Json) -> Result<(), String> {
    let number = |value: &Json| value.as_i64().unwrap();
    let snapshots = table["snapshots"].as_array().unwrap().clone();
    let has = |id: &Json| {
        snapshots
            .iter()
            .any(|snapshot| snapshot["snapshot-id"] == *id)
    };
    match update["action"].as_str().unwrap() {
        "assign-uuid" => table["table-uuid"] = update["uuid"].clone(),
        "set-location" => table["location"] = update["location"].clone(),
        "set-properties" => {
            for (name, value) in update["updates"].as_object().unwrap() {
                table["properties"][name] = value.clone();
            }
        }
        "upgrade-format-version" => table["format-version"] = update["format-version"].clone(),
        "add-schema" => {
            table["last-column-id"] = update["last-column-id"].clone();
            SCHEMAS.add(table, &update["schema"]);
        }
        "set-current-schema" => SCHEMAS.set(table, &update["schema-id"])?,
        "add-spec" => {
            let id = number(&update["spec"]["fields"][0]["field-id"]);
            if id <= number(&table["last-partition-id"]) {
                return Err("the id of the partition field is used".to_owned());
            }
            table["last-partition-id"] = json!(id);
            SPECS.add(table, &update["spec"]);
        }
        "set-default-spec" => SPECS.set(table, &update["spec-id"])?,
        "add-sort-order" => SORT_ORDERS.add(table, &update["sort-order"]),
        "set-default-sort-order" => SORT_ORDERS.set(table, &update["sort-order-id"])?,
        "add-snapshot" => {
            let snapshot = &update["snapshot"];
            if number(&snapshot["sequence-number"]) <= number(&table["last-sequence-number"]) {
                return Err("an old sequence number".to_owned());
            }
            if number(&snapshot["timestamp-ms"]) + 60_000 < number(&table["last-updated-ms"]) {
                return Err("an old timestamp".to_owned());
            }
            if has(&snapshot["snapshot-id"]) {
                return Err("the snapshot exists".to_owned());
            }
            table["last-sequence-number"] = snapshot["sequence-number"].clone();
            table["last-updated-ms"] = snapshot["timestamp-ms"].clone();
            table["snapshots"]
                .as_array_mut()
                .unwrap()
                .push(snapshot.clone());
        }
        "set-snapshot-ref" => {
            let id = &update["snapshot-id"];
            if !has(id) {
                return Err("no such snapshot".to_owned());
            }
            let name = update["ref-name"].as_str().unwrap();
            table["refs"][name] = json!({"snapshot-id": id, "type": "branch"});
            if name == "main" {
                table["current-snapshot-id"] = id.clone();
            }
        }
        "remove-snapshot-ref" => {
            let name = update["ref-name"].as_str().unwrap();
            table["refs"].as_object_mut().unwrap().remove(name);
        }
        "remove-snapshots" => {
            let ids = update["snapshot-ids"].as_array().unwrap();
            let refs = table["refs"].as_object().unwrap();
            if refs.values().any(|it| ids.contains(&it["snapshot-id"])) || !ids.iter().all(has) {
                return Err("the snapshot is needed or unknown".to_owned());
            }
            let left = table["snapshots"].as_array_mut().unwrap();
            left.retain(|snapshot| !ids.contains(&snapshot["snapshot-id"]));
        }
        other => return Err(format!("no such action: {other}")),
    }
    Ok(())
}

fn answer(status: u16, body: &Json) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        body: Bytes::from(body.to_string()),
    }
}

fn refusal(status: u16, message: &str) -> Answer {
    let error = json!({"message": message, "type": "Exception", "code": status});
    answer(status, &json!({"error": error}))
}

#[async_trait]
impl Transport for Model {
    async fn send(&self, request: Request) -> Result<Answer, String> {
        let fault = {
            let mut state = self.state();
            let at = state.requests.len();
            let path = request.url.path().to_owned();
            state.requests.push(format!("{} {path}", request.method));
            if state.is_away {
                return Err("connection refused".to_owned());
            }
            state.faults.get(&at).copied()
        };
        if let Some(Fault::Status(status)) = fault {
            return Ok(refusal(status, &format!("broken for {CREDENTIAL}")));
        }
        let answer = self.answer(&request).await;
        match fault {
            Some(Fault::DoneBut(status)) => Ok(refusal(status, "broken")),
            Some(Fault::Lost) => Err("the connection broke".to_owned()),
            _ => Ok(answer),
        }
    }
}
