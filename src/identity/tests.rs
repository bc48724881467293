//! The store of identity: races, crashes, and standings against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_conformance::{ManualClock, SeededEntropy};
use daypass_contract::Clock as _;
use proptest::prelude::*;

use super::record::*;
use super::{
    AliasClaim, AliasPatch, EntityPatch, GroupAliasPatch, GroupPatch, Identity, IdentityError,
    LoginMount, Merge, Standing, Which,
};
use crate::engine::testing::Crashing;
use crate::storage::memory::open_barrier;

struct Fixture {
    storage: Arc<Crashing>,
    clock: Arc<ManualClock>,
    identity: Identity,
}

impl std::ops::Deref for Fixture {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

fn mount(name: &str) -> LoginMount {
    LoginMount {
        accessor: format!("auth_{name}"),
        path: format!("auth/{name}/"),
        kind: name.into(),
    }
}

fn claim(name: &str) -> AliasClaim {
    AliasClaim {
        name: name.into(),
        metadata: BTreeMap::new(),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Fixture {
    async fn new() -> Self {
        let storage = Arc::new(Crashing::default());
        storage.heal();
        let clock = Arc::new(ManualClock::default());
        let entropy = Arc::new(SeededEntropy::new(7));
        let barrier = open_barrier(
            Arc::<Crashing>::clone(&storage),
            Arc::<ManualClock>::clone(&clock),
            Arc::<SeededEntropy>::clone(&entropy),
        )
        .await
        .unwrap();
        let identity = Identity::open(barrier, Arc::<ManualClock>::clone(&clock), entropy);
        Self {
            storage,
            clock,
            identity,
        }
    }

    async fn make_entity(&self, name: &str, policies: &[&str]) -> String {
        let patch = EntityPatch {
            policies: Some(names(policies)),
            ..EntityPatch::default()
        };
        let written = self.put_entity(Which::Named(name), patch).await.unwrap();
        written.record.id
    }

    async fn make_group(&self, name: &str, kind: GroupKind, policies: &[&str]) -> String {
        let patch = GroupPatch {
            kind: Some(kind),
            policies: Some(names(policies)),
            ..GroupPatch::default()
        };
        self.put_group(Which::Named(name), patch)
            .await
            .unwrap()
            .record
            .id
    }

    async fn set_members(
        &self,
        group: &str,
        entities: Option<&[&str]>,
        groups: Option<&[&str]>,
    ) -> Result<(), IdentityError> {
        let patch = GroupPatch {
            member_entities: entities.map(names),
            member_groups: groups.map(names),
            ..GroupPatch::default()
        };
        self.put_group(Which::Id(group), patch).await.map(drop)
    }

    async fn make_group_alias(&self, group: &str, mount: LoginMount, name: &str) -> String {
        let patch = GroupAliasPatch {
            id: None,
            name: Some(name.into()),
            mount,
            group_id: Some(group.into()),
        };
        self.put_group_alias(patch).await.unwrap().alias.unwrap().id
    }

    async fn stands(&self, id: &str) -> Arc<Standing> {
        self.standing(id).await.unwrap().unwrap()
    }

    fn writes(&self) -> usize {
        self.storage.writes.load(Ordering::SeqCst)
    }

    async fn due_entries(&self) -> Vec<String> {
        let keys = self
            .barrier
            .keys("due/identity/", None, 10_000)
            .await
            .unwrap();
        keys.iter()
            .map(|key| key.rsplit('/').next().unwrap().to_owned())
            .collect()
    }

    /// Every index says what the records say, and nothing else; groups have no cycle.
    async fn check(&self) {
        let rows = |prefix: &'static str| self.barrier.keys(prefix, None, 100_000);
        let entities = self.entities(None, 10_000).await.unwrap();
        let groups = self.groups(None, 10_000).await.unwrap();
        let by_id: BTreeMap<&str, &Group> = groups
            .iter()
            .map(|group| (group.id.as_str(), group))
            .collect();
        let mut wanted = BTreeSet::new();
        for entity in &entities {
            wanted.insert(entity_key(&entity.id));
            wanted.insert(entity_name_key(&entity.name));
            for alias in &entity.aliases {
                wanted.insert(alias_key(&alias.id));
                wanted.insert(factor_key(&alias.mount_accessor, &alias.name));
                let found = self.entity_by_alias(&alias.mount_accessor, &alias.name);
                assert_eq!(found.await.unwrap().unwrap().id, entity.id);
                assert_eq!(
                    self.alias(&alias.id).await.unwrap().unwrap().0.id,
                    entity.id
                );
            }
            for membership in &entity.memberships {
                if by_id.contains_key(membership.group.as_str()) {
                    wanted.insert(member_key(&membership.group, &entity.id));
                }
            }
            for id in &entity.merged_ids {
                wanted.insert(merged_key(id));
            }
            let accessors: BTreeSet<_> = entity
                .aliases
                .iter()
                .map(|alias| &alias.mount_accessor)
                .collect();
            assert_eq!(accessors.len(), entity.aliases.len(), "one alias per mount");
        }
        for group in &groups {
            wanted.insert(group_key(&group.id));
            wanted.insert(group_name_key(&group.name));
            if let Some(alias) = &group.alias {
                wanted.insert(group_alias_key(&alias.id));
                wanted.insert(group_factor_key(&alias.mount_accessor, &alias.name));
            }
            for member in &group.member_groups {
                assert!(by_id[member.as_str()].parents.contains(&group.id));
            }
            for parent in &group.parents {
                assert!(by_id[parent.as_str()].member_groups.contains(&group.id));
            }
            let (mut seen, mut search) = (BTreeSet::new(), group.member_groups.clone());
            while let Some(next) = search.pop() {
                assert_ne!(next, group.id, "a cycle");
                if seen.insert(next.clone()) {
                    search.extend(by_id[next.as_str()].member_groups.clone());
                }
            }
        }
        let found: BTreeSet<String> = rows("identity/").await.unwrap().into_iter().collect();
        // A deleted group may leave rows of members behind when its deletion is cut off.
        let gone = |key: &&String| {
            let group = key
                .strip_prefix("identity/group/m/")
                .and_then(|key| key.split('/').next());
            group.is_none_or(|group| by_id.contains_key(group))
        };
        let found: BTreeSet<String> = found.iter().filter(gone).cloned().collect();
        assert_eq!(found, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_logins_of_one_name_are_one_entity() {
    let fixture = Arc::new(Fixture::new().await);
    let group = fixture
        .make_group("ops", GroupKind::External, &["ops"])
        .await;
    fixture.make_group_alias(&group, mount("jwt"), "ops").await;
    let logins: Vec<_> = (0..32)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            #[expect(clippy::disallowed_methods, reason = "a test waits for what it spawns")]
            tokio::spawn(async move {
                let standing = fixture
                    .login(&mount("jwt"), &claim("ci"), &names(&["ops", "unknown"]))
                    .await
                    .unwrap();
                (standing.id.clone(), standing.policies.clone())
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for login in logins {
        seen.insert(login.await.unwrap());
    }
    assert_eq!(seen.len(), 1);
    assert_eq!(seen.first().unwrap().1, ["ops"]);
    assert_eq!(fixture.entities(None, 10).await.unwrap().len(), 1);
    fixture.check().await;
}

#[tokio::test]
async fn a_login_that_brings_nothing_new_writes_nothing() {
    let fixture = Fixture::new().await;
    let group = fixture
        .make_group("ops", GroupKind::External, &["ops"])
        .await;
    fixture.make_group_alias(&group, mount("jwt"), "ops").await;
    let mut alias = claim("ci");
    let login = |alias: AliasClaim, groups: &'static [&'static str]| {
        let fixture = &fixture;
        async move {
            fixture
                .login(&mount("jwt"), &alias, &names(groups))
                .await
                .unwrap()
        }
    };
    let first = login(alias.clone(), &["ops"]).await;
    let writes = fixture.writes();
    for _ in 0..3 {
        let again = login(alias.clone(), &["ops"]).await;
        assert_eq!((&again.id, &again.policies), (&first.id, &first.policies));
    }
    assert_eq!(fixture.writes(), writes);
    alias.metadata.insert("sha".into(), "1".into());
    let changed = login(alias.clone(), &["ops"]).await;
    assert_eq!(changed.alias_at("auth_jwt").unwrap().metadata["sha"], "1");
    assert_eq!(fixture.writes(), writes + 1);
    assert!(login(alias.clone(), &[]).await.policies.is_empty());
    assert_eq!(fixture.writes(), writes + 2);
    // Names are another's where their case is.
    assert_ne!(login(claim("CI"), &[]).await.id, first.id);
    fixture.check().await;
}

#[tokio::test]
async fn a_mount_decides_about_its_own_groups_alone() {
    let fixture = Fixture::new().await;
    let by_jwt = fixture
        .make_group("by-jwt", GroupKind::External, &["j"])
        .await;
    let by_ldap = fixture
        .make_group("by-ldap", GroupKind::External, &["l"])
        .await;
    let internal = fixture
        .make_group("internal", GroupKind::Internal, &["i"])
        .await;
    let alias = fixture.make_group_alias(&by_jwt, mount("jwt"), "ops").await;
    fixture
        .make_group_alias(&by_ldap, mount("ldap"), "ops")
        .await;
    let standing = fixture
        .login(&mount("jwt"), &claim("ci"), &names(&["ops"]))
        .await
        .unwrap();
    let id = standing.id.clone();
    fixture
        .set_members(&internal, Some(&[&id]), None)
        .await
        .unwrap();
    let patch = AliasPatch {
        name: Some("ci".into()),
        mount: Some(mount("ldap")),
        entity_id: Some(id.clone()),
        ..AliasPatch::default()
    };
    fixture.put_alias(patch).await.unwrap();
    fixture
        .login(&mount("ldap"), &claim("ci"), &names(&["ops"]))
        .await
        .unwrap();
    assert_eq!(fixture.stands(&id).await.policies, ["i", "j", "l"]);
    fixture
        .login(&mount("ldap"), &claim("ci"), &[])
        .await
        .unwrap();
    assert_eq!(fixture.stands(&id).await.policies, ["i", "j"]);
    // Another alias, another group of people: nobody is in it yet.
    let patch = GroupAliasPatch {
        id: Some(alias),
        name: Some("admins".into()),
        mount: mount("jwt"),
        group_id: None,
    };
    let group = fixture.put_group_alias(patch).await.unwrap();
    assert_eq!(fixture.stands(&id).await.policies, ["i"]);
    assert!(fixture.members(&group, 10).await.unwrap().is_empty());
    fixture.forget_mount("auth_ldap").await.unwrap();
    assert_eq!(fixture.stands(&id).await.aliases.len(), 1);
    fixture.check().await;
}

#[tokio::test]
async fn what_is_remembered_follows_every_write() {
    let fixture = Fixture::new().await;
    let id = fixture.make_entity("a", &["own"]).await;
    let (child, parent) = (
        fixture
            .make_group("child", GroupKind::Internal, &["c"])
            .await,
        fixture
            .make_group("parent", GroupKind::Internal, &["p"])
            .await,
    );
    let policies = async || fixture.stands(&id).await.policies.clone();
    assert_eq!(policies().await, ["own"]);
    fixture
        .set_members(&child, Some(&[&id]), None)
        .await
        .unwrap();
    assert_eq!(policies().await, ["c", "own"]);
    fixture
        .set_members(&parent, None, Some(&[&child]))
        .await
        .unwrap();
    assert_eq!(policies().await, ["c", "own", "p"]);
    fixture
        .make_group("parent", GroupKind::Internal, &["q"])
        .await;
    assert_eq!(policies().await, ["c", "own", "q"]);
    fixture.make_entity("a", &["new", "New", " own "]).await;
    assert_eq!(policies().await, ["c", "new", "own", "q"]);
    // A write whose caller was told that it failed, but which was kept.
    fixture.storage.crash_after(1, true);
    let patch = EntityPatch {
        disabled: Some(true),
        ..EntityPatch::default()
    };
    fixture.put_entity(Which::Id(&id), patch).await.unwrap_err();
    fixture.storage.heal();
    assert!(fixture.stands(&id).await.disabled);
    fixture.delete_group(Which::Id(&child)).await.unwrap();
    assert_eq!(policies().await, ["new", "own"]);
    fixture.delete_entity(Which::Id(&id)).await.unwrap();
    assert!(fixture.standing(&id).await.unwrap().is_none());
    fixture.check().await;
}

#[tokio::test]
async fn who_loses_its_standing_is_on_the_agenda() {
    let fixture = Fixture::new().await;
    let id = fixture
        .login(&mount("jwt"), &claim("ci"), &[])
        .await
        .unwrap()
        .id
        .clone();
    let old = fixture.make_entity("old", &[]).await;
    let merge = Merge {
        into: id.clone(),
        from: vec![old.clone()],
        keep_aliases: Vec::new(),
    };
    fixture.merge_entities(&merge).await.unwrap();
    assert_eq!(
        fixture.stands(&old).await.id,
        id,
        "its tokens are the other's now"
    );
    let set = async |patch| {
        fixture
            .put_entity(Which::Id(&id), patch)
            .await
            .unwrap()
            .withdrawn
    };
    let disabled = |disabled| EntityPatch {
        disabled: Some(disabled),
        ..EntityPatch::default()
    };
    assert_eq!(set(disabled(true)).await, [id.clone(), old.clone()]);
    assert!(set(disabled(true)).await.is_empty(), "once");
    let login = fixture.login(&mount("jwt"), &claim("ci"), &[]).await;
    assert!(matches!(login, Err(IdentityError::Disabled)));
    let entries = fixture.due_entries().await;
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        let (entity, due) = fixture.due(entry).await.unwrap();
        assert!([id.as_str(), old.as_str()].contains(&entity) && due);
    }
    set(disabled(false)).await;
    for entry in &entries {
        assert!(
            !fixture.due(entry).await.unwrap().1,
            "enabled again in time"
        );
        fixture.settle(entry).await.unwrap();
    }
    assert!(fixture.due_entries().await.is_empty());
    let end = |after: u64| EntityPatch {
        ends_at: Some(Some(fixture.clock.now() + Duration::from_secs(after))),
        ..EntityPatch::default()
    };
    set(end(60)).await;
    set(end(120)).await;
    assert_eq!(fixture.due_entries().await.len(), 2, "at the new end alone");
    assert!(!fixture.stands(&id).await.disabled);
    fixture.clock.advance(Duration::from_secs(120));
    assert!(fixture.stands(&id).await.disabled, "without a write");
    fixture.delete_entity(Which::Id(&id)).await.unwrap();
    assert!(fixture.standing(&old).await.unwrap().is_none());
    assert_eq!(fixture.due_entries().await.len(), 2);
    fixture.check().await;
}

#[tokio::test]
async fn refusals_name_the_reason() {
    let fixture = Fixture::new().await;
    let a = fixture.make_entity("a", &[]).await;
    let b = fixture.make_entity("b", &[]).await;
    let inner = fixture.make_group("inner", GroupKind::Internal, &[]).await;
    let outer = fixture.make_group("outer", GroupKind::Internal, &[]).await;
    let external = fixture
        .make_group("external", GroupKind::External, &[])
        .await;
    fixture
        .set_members(&outer, None, Some(&[&inner]))
        .await
        .unwrap();
    for (name, members) in [("a", &a), ("b", &b)] {
        let patch = AliasPatch {
            name: Some(name.into()),
            mount: Some(mount("jwt")),
            entity_id: Some(members.clone()),
            ..AliasPatch::default()
        };
        fixture.put_alias(patch).await.unwrap();
    }
    let rename = EntityPatch {
        name: Some("B".into()),
        ..EntityPatch::default()
    };
    let root = EntityPatch {
        policies: Some(names(&["Root"])),
        ..EntityPatch::default()
    };
    let second = AliasPatch {
        name: Some("second".into()),
        mount: Some(mount("jwt")),
        entity_id: Some(a.clone()),
        ..AliasPatch::default()
    };
    let merge = Merge {
        into: a.clone(),
        from: vec![b.clone()],
        keep_aliases: Vec::new(),
    };
    let alias = GroupAliasPatch {
        id: None,
        name: Some("x".into()),
        mount: mount("jwt"),
        group_id: Some(inner.clone()),
    };
    let told = |result: Result<(), IdentityError>| result.unwrap_err().to_string();
    let said = [
        (
            told(fixture.put_entity(Which::Id(&a), rename).await.map(drop)),
            "already in use",
        ),
        (
            told(fixture.put_entity(Which::Id(&a), root).await.map(drop)),
            "cannot contain root",
        ),
        (
            told(fixture.put_alias(second).await.map(drop)),
            "Alias already exists",
        ),
        (
            told(fixture.merge_entities(&merge).await.map(drop)),
            "same mount accessor",
        ),
        (
            told(fixture.put_group_alias(alias).await.map(drop)),
            "internal group",
        ),
        (
            told(fixture.set_members(&inner, None, Some(&[&outer])).await),
            "cyclic",
        ),
        (
            told(fixture.set_members(&inner, None, Some(&[&inner])).await),
            "same as the ID",
        ),
        (
            told(fixture.set_members(&inner, Some(&["nobody"]), None).await),
            "invalid entity ID",
        ),
        (
            told(fixture.set_members(&inner, None, Some(&["../x"])).await),
            "invalid member group",
        ),
        (
            told(fixture.set_members(&external, Some(&[&a]), None).await),
            "external groups",
        ),
    ];
    for (text, want) in said {
        assert!(text.contains(want), "{text}: {want}");
    }
    let keep = fixture.alias_id(&b).await;
    let merge = Merge {
        keep_aliases: vec![keep.clone()],
        ..merge
    };
    fixture.merge_entities(&merge).await.unwrap();
    assert_eq!(fixture.alias_id(&a).await, keep);
    for id in ["", "..", "a/b", "x y", &"9".repeat(65)] {
        assert!(
            fixture.entity(Which::Id(id)).await.unwrap().is_none(),
            "{id}"
        );
        assert!(fixture.alias(id).await.unwrap().is_none(), "{id}");
        assert!(
            fixture.group_by_alias_id(id).await.unwrap().is_none(),
            "{id}"
        );
        assert!(fixture.standing(id).await.unwrap().is_none(), "{id}");
    }
    fixture.check().await;
}

impl Fixture {
    async fn alias_id(&self, entity: &str) -> String {
        self.stands(entity).await.aliases[0].id.clone()
    }
}

const PEOPLE: usize = 4;
const GROUPS_OF_TEST: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Policies {
        entity: usize,
        policy: u8,
    },
    Members {
        group: usize,
        entities: Vec<usize>,
    },
    Below {
        group: usize,
        groups: Vec<usize>,
    },
    Grant {
        group: usize,
        policy: u8,
    },
    Login {
        entity: usize,
        groups: Vec<usize>,
    },
    Delete {
        entity: usize,
    },
    Disband {
        group: usize,
    },
    /// The process dies at the write after so many, which may be kept.
    Crash {
        writes: u64,
        kept: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let some = |most| prop::collection::vec(0..most, 0..4);
    prop_oneof![
        (0..PEOPLE, 0..4_u8).prop_map(|(entity, policy)| Step::Policies { entity, policy }),
        (0..3_usize, some(PEOPLE)).prop_map(|(group, entities)| Step::Members { group, entities }),
        (0..3_usize, some(GROUPS_OF_TEST))
            .prop_map(|(group, groups)| Step::Below { group, groups }),
        (0..GROUPS_OF_TEST, 0..4_u8).prop_map(|(group, policy)| Step::Grant { group, policy }),
        (0..PEOPLE, some(GROUPS_OF_TEST))
            .prop_map(|(entity, groups)| Step::Login { entity, groups }),
        (0..PEOPLE).prop_map(|entity| Step::Delete { entity }),
        (0..GROUPS_OF_TEST).prop_map(|group| Step::Disband { group }),
        (1..3_u64, any::<bool>()).prop_map(|(writes, kept)| Step::Crash { writes, kept }),
    ]
}

/// What should be, in the simplest words. Groups 0 to 2 are internal, the others external.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// Policies.
    entities: BTreeMap<usize, BTreeSet<String>>,
    groups: BTreeMap<usize, Members>,
}

/// Policies, entities and groups of a group.
type Members = (BTreeSet<String>, BTreeSet<usize>, BTreeSet<usize>);

impl Model {
    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to
            || self
                .groups
                .get(&from)
                .is_some_and(|(_, _, below)| below.iter().any(|group| self.reaches(*group, to)))
    }

    fn policies(&self, entity: usize) -> Vec<String> {
        let mut policies = self.entities[&entity].clone();
        for (top, (granted, _, _)) in &self.groups {
            let member = self.groups.iter().any(|(group, (_, members, _))| {
                members.contains(&entity) && self.reaches(*top, *group)
            });
            if member {
                policies.extend(granted.iter().cloned());
            }
        }
        policies.into_iter().collect()
    }

    /// What a step makes of it; `None` where the step is refused.
    fn after(&self, step: &Step) -> Option<Self> {
        let mut next = self.clone();
        let only = |policy: u8| BTreeSet::from([format!("p{policy}")]);
        match step {
            Step::Policies { entity, policy } => {
                next.entities.insert(*entity, only(*policy));
            }
            Step::Members { group, entities } => {
                next.groups.get_mut(group)?.1 = entities.iter().copied().collect();
                if !entities
                    .iter()
                    .all(|entity| self.entities.contains_key(entity))
                {
                    return None;
                }
            }
            Step::Below { group, groups } => {
                next.groups.get_mut(group)?.2 = groups.iter().copied().collect();
                let fits = |below: &usize| {
                    self.groups.contains_key(below) && !self.reaches(*below, *group)
                };
                if !groups.iter().all(fits) {
                    return None;
                }
            }
            Step::Grant { group, policy } => {
                next.groups.entry(*group).or_default().0 = only(*policy);
            }
            Step::Login { entity, groups } => {
                next.entities.entry(*entity).or_default();
                for (group, (_, members, _)) in &mut next.groups {
                    if *group >= 3 {
                        members.remove(entity);
                        if groups.contains(group) {
                            members.insert(*entity);
                        }
                    }
                }
            }
            Step::Delete { entity } => {
                next.entities.remove(entity);
                for (_, members, _) in next.groups.values_mut() {
                    members.remove(entity);
                }
            }
            Step::Disband { group } => {
                next.groups.remove(group);
                for (_, _, below) in next.groups.values_mut() {
                    below.remove(group);
                }
            }
            Step::Crash { .. } => {}
        }
        Some(next)
    }
}

/// Ids by the numbers of the model, looked up by alias and name.
impl Fixture {
    async fn entity_number(&self, number: usize) -> Option<String> {
        let found = self
            .entity_by_alias("auth_jwt", &format!("e{number}"))
            .await;
        found.unwrap().map(|entity| entity.id)
    }

    async fn group_number(&self, number: usize) -> Option<String> {
        let found = self.group(Which::Named(&format!("g{number}"))).await;
        found.unwrap().map(|group| group.id)
    }

    async fn take(&self, step: &Step) -> Result<(), IdentityError> {
        let missing = || "missing".to_owned();
        match step {
            Step::Policies { entity, policy } => {
                // Made by a login, so that the alias says which it is.
                let name = format!("e{entity}");
                let standing = match self.entity_number(*entity).await {
                    Some(id) => id,
                    None => self
                        .login(&mount("jwt"), &claim(&name), &[])
                        .await?
                        .id
                        .clone(),
                };
                let patch = EntityPatch {
                    policies: Some(vec![format!("p{policy}")]),
                    ..EntityPatch::default()
                };
                self.put_entity(Which::Id(&standing), patch).await.map(drop)
            }
            Step::Members { group, entities } => {
                let group = self.group_number(*group).await.unwrap_or_else(missing);
                let mut ids = Vec::new();
                for entity in entities {
                    ids.push(self.entity_number(*entity).await.unwrap_or_else(missing));
                }
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                self.set_members(&group, Some(&ids), None).await
            }
            Step::Below { group, groups } => {
                let group = self.group_number(*group).await.unwrap_or_else(missing);
                let mut ids = Vec::new();
                for below in groups {
                    ids.push(self.group_number(*below).await.unwrap_or_else(missing));
                }
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                self.set_members(&group, None, Some(&ids)).await
            }
            Step::Grant { group, policy } => {
                let kind = if *group < 3 {
                    GroupKind::Internal
                } else {
                    GroupKind::External
                };
                let name = format!("g{group}");
                let patch = GroupPatch {
                    kind: Some(kind),
                    policies: Some(vec![format!("p{policy}")]),
                    ..GroupPatch::default()
                };
                let made = self.put_group(Which::Named(&name), patch).await?;
                if kind == GroupKind::External && made.record.alias.is_none() {
                    let patch = GroupAliasPatch {
                        id: None,
                        name: Some(name),
                        mount: mount("jwt"),
                        group_id: Some(made.record.id),
                    };
                    self.put_group_alias(patch).await?;
                }
                Ok(())
            }
            Step::Login { entity, groups } => {
                let groups: Vec<String> = groups.iter().map(|group| format!("g{group}")).collect();
                let alias = claim(&format!("e{entity}"));
                self.login(&mount("jwt"), &alias, &groups).await.map(drop)
            }
            Step::Delete { entity } => {
                let id = self.entity_number(*entity).await.unwrap_or_else(missing);
                self.delete_entity(Which::Id(&id)).await.map(drop)
            }
            Step::Disband { group } => self.delete_group(Which::Named(&format!("g{group}"))).await,
            Step::Crash { .. } => Ok(()),
        }
    }

    /// Every standing as the model has it.
    async fn agrees(&self, model: &Model) -> bool {
        for number in 0..PEOPLE {
            let id = self.entity_number(number).await;
            match (&id, model.entities.contains_key(&number)) {
                (Some(id), true) => {
                    if self.stands(id).await.policies != model.policies(number) {
                        return false;
                    }
                }
                (None, false) => {}
                _ => return false,
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn standings_are_what_the_model_says_whatever_crashes(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut model = Model::default();
            let mut crashing = false;
            for step in &steps {
                if let Step::Crash { writes, kept } = step {
                    fixture.storage.crash_after(*writes, *kept);
                    crashing = true;
                    continue;
                }
                let after = model.after(step);
                let result = fixture.take(step).await;
                if crashing {
                    fixture.storage.heal();
                    crashing = false;
                    fixture.check().await;
                    // Cut off anywhere: done again, it is done.
                    if result.is_err() {
                        assert_eq!(fixture.take(step).await.is_ok(), after.is_some(), "{step:?}");
                    }
                } else {
                    assert_eq!(result.is_ok(), after.is_some(), "{step:?}: {result:?}");
                }
                model = after.unwrap_or(model);
                fixture.check().await;
                assert!(fixture.agrees(&model).await, "{step:?}: {model:?}");
            }
        });
    }
}
