//! Clauses about the processes of the service.

use std::time::{Duration, SystemTime};

use lemonade_task::batch::row_id;
use lemonade_task::sink::{Beat, LastEvent, Merged, NewNode, NodeId};

use super::fixture::{Fixture, SOME_TIME_US, Target, events};

/// Longer than a test takes.
const LONG: Option<Duration> = Some(Duration::from_secs(600));

/// A lease that has not been renewed for this long has lapsed.
const SHORT: Duration = Duration::from_millis(50);

async fn join(fixture: &Fixture, name: &str) -> NodeId {
    let node = NewNode {
        name: name.to_owned(),
        roles: "work,summary".to_owned(),
        version: "1.2.3".to_owned(),
        former: None,
    };
    let joined = fixture.sink.join(&node, Duration::ZERO).await.unwrap();
    joined.expect("no process counts as alive")
}

async fn beat(fixture: &Fixture, node: &NodeId, lapse: Option<Duration>) -> Beat {
    fixture.sink.beat(node, lapse).await.unwrap()
}

async fn names(fixture: &Fixture) -> Vec<String> {
    let nodes = fixture.sink.nodes(9).await.unwrap();
    let mut names: Vec<String> = nodes.into_iter().map(|node| node.id.name).collect();
    names.sort();
    names
}

pub async fn each_process_has_a_row_until_it_leaves_or_is_long_dead(target: Target) {
    let fixture = Fixture::new(target).await;
    let first = join(&fixture, "a").await;
    join(&fixture, "b").await;
    tokio::time::sleep(SHORT).await;
    assert_eq!(beat(&fixture, &first, None).await, Beat::Lives(false));
    let nodes = fixture.sink.nodes(9).await.unwrap();
    assert_eq!(nodes[0].id, first, "the newest beat comes first");
    assert_eq!(
        (&*nodes[0].roles, &*nodes[0].version),
        ("work,summary", "1.2.3")
    );
    assert!(
        nodes[0].up >= SHORT && nodes[0].beat_age < nodes[0].up,
        "{nodes:?}"
    );
    assert!(nodes[1].beat_age >= SHORT, "{nodes:?}");
    assert_eq!(fixture.sink.nodes(1).await.unwrap().len(), 1);

    // The next process of a name takes the place of the former one.
    let second = join(&fixture, "a").await;
    assert!(second.epoch > first.epoch);
    assert_eq!(beat(&fixture, &first, LONG).await, Beat::Replaced);
    fixture.sink.leave(&first).await.unwrap();
    assert_eq!(beat(&fixture, &second, None).await, Beat::Lives(false));

    let long_ago = "UPDATE ingest_nodes SET beat_at = '2000-01-01 00:00:00' WHERE node = 'b'";
    fixture.run(long_ago).await;
    join(&fixture, "c").await;
    assert_eq!(names(&fixture).await, ["a", "c"]);
    fixture.sink.leave(&second).await.unwrap();
    assert_eq!(names(&fixture).await, ["c"]);
    let again = join(&fixture, "a").await;
    assert!(again.epoch > second.epoch, "also without its former row");
}

pub async fn a_dead_process_is_fenced_and_a_name_belongs_to_one_that_lives(target: Target) {
    let fixture = Fixture::new(target).await;
    let long = Duration::from_secs(600);
    let first = join(&fixture, "a").await;
    let node = |former| NewNode {
        name: "a".to_owned(),
        roles: "ingest".to_owned(),
        version: "1.2.3".to_owned(),
        former,
    };
    for former in [None, Some(first.epoch - 1)] {
        let joined = fixture.sink.join(&node(former), long).await.unwrap();
        assert_eq!(joined, None, "the process lives");
    }
    assert!(!fixture.sink.fence("a", long).await.unwrap());
    assert!(fixture.sink.is_current(&first).await.unwrap());
    // Its lock is free: it is known to have ended.
    let second = fixture.sink.join(&node(Some(first.epoch)), long).await;
    let second = second.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    assert!(!fixture.sink.is_current(&first).await.unwrap());

    tokio::time::sleep(SHORT).await;
    assert!(fixture.sink.fence("a", SHORT / 2).await.unwrap());
    assert!(!fixture.sink.is_current(&second).await.unwrap());
    assert_eq!(beat(&fixture, &second, LONG).await, Beat::Replaced);
    assert!(fixture.sink.fence("a", SHORT / 2).await.unwrap(), "again");
    let nodes = fixture.sink.nodes(9).await.unwrap();
    assert!(
        nodes[0].beat_age >= SHORT,
        "it still counts as dead: {nodes:?}"
    );
    let third = join(&fixture, "a").await;
    assert_eq!(beat(&fixture, &third, None).await, Beat::Lives(false));
    fixture.sink.leave(&third).await.unwrap();
    assert!(
        fixture.sink.fence("a", long).await.unwrap(),
        "none has the name"
    );
}

/// The clock of the database was set back, or a failover has led to a server whose clock is behind.
pub async fn a_beat_of_the_future_is_no_sign_of_life(target: Target) {
    const AHEAD: &str = "UPDATE ingest_nodes SET beat_at = '2100-01-01 00:00:00'";
    let fixture = Fixture::new(target).await;
    let long = Duration::from_secs(600);
    let age = async |name: &str| {
        let nodes = fixture.sink.nodes(9).await.unwrap().into_iter();
        let mut its = nodes.filter(|node| node.id.name == name);
        its.next().unwrap().beat_age
    };
    let (a, b) = (join(&fixture, "a").await, join(&fixture, "b").await);
    assert_eq!(beat(&fixture, &a, LONG).await, Beat::Lives(true));
    fixture.run(AHEAD).await;
    let renewed = "UPDATE ingest_leases SET renewed_at = '2100-01-01 00:00:00'";
    fixture.run(renewed).await;
    assert!(age("a").await > long);
    // A process that lives replaces its beat, and takes the lease.
    assert_eq!(beat(&fixture, &b, LONG).await, Beat::Lives(true));
    assert!(age("b").await < long);
    assert!(!fixture.sink.fence("b", long).await.unwrap());

    // Its name is free once it is known that no process replaces the beat.
    let node = NewNode {
        name: "a".to_owned(),
        roles: "ingest".to_owned(),
        version: "1.2.3".to_owned(),
        former: None,
    };
    assert_eq!(fixture.sink.join(&node, long).await.unwrap(), None);
    assert!(age("a").await < long);
    assert_eq!(fixture.sink.join(&node, long).await.unwrap(), None);
    assert_eq!(beat(&fixture, &a, None).await, Beat::Lives(false));
    tokio::time::sleep(SHORT).await;
    let next = fixture.sink.join(&node, SHORT / 2).await.unwrap();
    let next = next.expect("it has lapsed");

    fixture.run(AHEAD).await;
    assert!(fixture.sink.fence("a", long).await.unwrap());
    assert_eq!(beat(&fixture, &next, LONG).await, Beat::Replaced);
}

pub async fn the_time_is_that_of_the_database(target: Target) {
    let fixture = Fixture::new(target).await;
    let before = SystemTime::now() - LONG.unwrap();
    let theirs = fixture.sink.time().await.unwrap();
    assert!(before < theirs && theirs < SystemTime::now() + LONG.unwrap());
}

pub async fn one_process_leads_and_a_deposed_one_writes_nothing(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let file_no = fixture.file("vehicle_events", 2).await;
    fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
    fixture.sink.settle(&[file_no]).await.unwrap();
    let pending = fixture.sink.summary_pending(dataset, 9).await.unwrap();
    assert_eq!(pending.len(), 1);
    let merge = async |value: &str, files: &[_], leader: &NodeId| {
        let candidate = LastEvent {
            key: value.to_owned(),
            time_us: SOME_TIME_US,
            value: value.to_owned(),
            id: row_id(file_no, 0),
        };
        let store = &fixture.sink;
        let merged = store.summary_merge(
            dataset,
            std::slice::from_ref(&candidate),
            files,
            Some(leader),
        );
        merged.await.unwrap() == Merged::All
    };
    let (a, b) = (join(&fixture, "a").await, join(&fixture, "b").await);
    assert!(!merge("before it leads", &[], &a).await);
    assert_eq!(beat(&fixture, &a, LONG).await, Beat::Lives(true));
    assert_eq!(beat(&fixture, &b, LONG).await, Beat::Lives(false));
    assert_eq!(beat(&fixture, &a, LONG).await, Beat::Lives(true));
    assert!(merge("by a", &[], &a).await);
    assert!(!merge("by b", &[], &b).await);

    // `a` is stopped for longer than its lease.
    tokio::time::sleep(SHORT).await;
    assert_eq!(beat(&fixture, &b, Some(SHORT / 2)).await, Beat::Lives(true));
    assert!(!merge("by a, resumed", &pending, &a).await);
    let still = fixture.sink.summary_pending(dataset, 9).await.unwrap();
    assert_eq!(still, pending, "the file is not marked");
    let nodes = fixture.sink.nodes(9).await.unwrap();
    let leaders = nodes.iter().filter(|node| node.leads);
    assert_eq!(leaders.map(|node| &node.id).collect::<Vec<_>>(), [&b]);
    assert_eq!(beat(&fixture, &a, LONG).await, Beat::Lives(false));
    assert!(merge("by b", &pending, &b).await);
    let pending = fixture.sink.summary_pending(dataset, 9).await.unwrap();
    assert_eq!(pending, []);
    let head = fixture.sink.summary_head(dataset, 9).await.unwrap();
    let values: Vec<&str> = head.iter().map(|event| &*event.value).collect();
    assert_eq!(values, ["by a", "by b"]);

    // A process that leaves gives up its lease, and the next process of a name keeps it.
    fixture.sink.leave(&b).await.unwrap();
    assert_eq!(beat(&fixture, &a, LONG).await, Beat::Lives(true));
    let next = join(&fixture, "a").await;
    assert_eq!(beat(&fixture, &next, LONG).await, Beat::Lives(true));
    assert!(!merge("by the former a", &[], &a).await);
}
