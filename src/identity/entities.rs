//! Entities: written, read, deleted and merged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::check;
use super::login::put_entity_name;
use super::record::{
    ALIASES, Alias, ENTITIES, ENTITY_NAMES, Entity, Group, Named, alias_key, entity_name_key,
    factor_key, is_id, member_key, merged_key,
};
use super::store::{Change, Identity, IdentityError, Loaded, RACES, Written, raced};

/// Which record a write or a read is about.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// A new one, with a name of its own.
    New,
    /// The one of that name; a write makes it where there is none.
    Named(&'a str),
    /// The one of that id, which must exist.
    Id(&'a str),
}

/// What a write changes about an entity; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct EntityPatch {
    /// A new name.
    pub name: Option<String>,
    /// All of the metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// All of its own policies.
    pub policies: Option<Vec<String>>,
    /// Whether it may do nothing.
    pub disabled: Option<bool>,
    /// Who answers for it; `""` for nobody.
    pub owner: Option<String>,
    /// Where it belongs; `""` for nowhere.
    pub environment: Option<String>,
    /// When it ends; `Some(None)` for never.
    pub ends_at: Option<Option<SystemTime>>,
}

/// Entities that become one.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// The one that stays.
    pub into: String,
    /// Those that become part of it.
    pub from: Vec<String>,
    /// Where both have an alias in one mount: the ids of those to keep.
    pub keep_aliases: Vec<String>,
}

impl Identity {
    /// Makes or changes an entity.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] for a name in use, an id of nobody, or a value that cannot be kept.
    pub async fn put_entity(
        &self,
        which: Which<'_>,
        mut patch: EntityPatch,
    ) -> Result<Written<Entity>, IdentityError> {
        patch.name = check::name(patch.name)?;
        patch.policies = patch.policies.map(check::policies).transpose()?;
        if let Some(metadata) = &patch.metadata {
            check::metadata("metadata", metadata)?;
        }
        for (field, text) in [("owner", &patch.owner), ("environment", &patch.environment)] {
            if text.as_ref().is_some_and(|text| text.len() > 512) {
                return Err(IdentityError::invalid(format!(
                    "field \"{field}\": must be at most 512 bytes"
                )));
            }
        }
        for _ in 0..RACES {
            let (mut entity, old_name) = match self.find_entity(which).await? {
                Some(entity) => {
                    let name = entity.record.name.clone();
                    (entity, Some(name))
                }
                None => match which {
                    Which::Id(_) => return Err(IdentityError::invalid("entity not found from id")),
                    Which::Named(name) => {
                        let name = check::name(Some(name.to_owned()))?;
                        (self.fresh_entity(name), None)
                    }
                    Which::New => (self.fresh_entity(patch.name.clone()), None),
                },
            };
            let mut change = Change::default();
            let now = self.clock.now();
            let was_withdrawn = entity.record.is_withdrawn(now);
            let old_end = entity.record.ends_at;
            let record = &mut entity.record;
            apply(record, &patch);
            record.updated_at = now;
            if old_name.as_ref() != Some(&record.name) {
                let key = entity_name_key(&record.name);
                let old_key = old_name.as_deref().map(entity_name_key);
                if old_key.as_ref() != Some(&key) {
                    if self.read::<Named>(&key).await?.is_some() {
                        if old_name.is_none() {
                            // Made by another request since it was looked for.
                            continue;
                        }
                        return Err(IdentityError::invalid("entity name is already in use"));
                    }
                    change.expect(key, None);
                    if let Some(old_key) = old_key {
                        change.delete(old_key);
                    }
                }
                put_entity_name(&mut change, record)?;
            }
            if old_end != record.ends_at {
                if let Some(end) = old_end {
                    change.reprieve(record.all_ids(), end);
                }
                if let Some(end) = record.ends_at.filter(|end| *end > now) {
                    change.withdraw(record.all_ids(), end);
                }
            }
            let mut withdrawn = Vec::new();
            if record.is_withdrawn(now) && !was_withdrawn {
                change.withdraw(record.all_ids(), now);
                withdrawn.extend(record.all_ids().map(str::to_owned));
            }
            change.entity(&entity)?;
            if self.commit(change).await? {
                return Ok(Written {
                    record: entity.record,
                    created: old_name.is_none(),
                    withdrawn,
                });
            }
        }
        Err(raced())
    }

    /// An entity, by id or name.
    pub async fn entity(&self, which: Which<'_>) -> Result<Option<Entity>, IdentityError> {
        Ok(self.find_entity(which).await?.map(|entity| entity.record))
    }

    /// The entity that has an alias of that name in a mount.
    pub async fn entity_by_alias(
        &self,
        accessor: &str,
        name: &str,
    ) -> Result<Option<Entity>, IdentityError> {
        match self.read::<String>(&factor_key(accessor, name)).await? {
            Some(id) => self.entity(Which::Id(&id.record)).await,
            None => Ok(None),
        }
    }

    /// The entity that has an alias of that id, and the alias.
    pub async fn alias(&self, id: &str) -> Result<Option<(Entity, Alias)>, IdentityError> {
        let found = self.find_alias(id).await?;
        Ok(found.map(|(entity, alias)| (entity.record, alias)))
    }

    /// The groups of an entity: those it is a direct member of, marked so, and theirs.
    pub async fn entity_groups(
        &self,
        entity: &Entity,
    ) -> Result<Vec<(Group, bool)>, IdentityError> {
        self.groups_of(entity).await
    }

    /// Entities in the order of their ids, from the one after `after`.
    pub async fn entities(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entity>, IdentityError> {
        let page = self.page::<Entity>(ENTITIES, after, limit).await?;
        Ok(page.into_iter().map(|(_, entity)| entity).collect())
    }

    /// Names of entities, without regard to case in order.
    pub async fn entity_names(&self, limit: usize) -> Result<Vec<String>, IdentityError> {
        let page = self.page::<Named>(ENTITY_NAMES, None, limit).await?;
        Ok(page.into_iter().map(|(_, named)| named.name).collect())
    }

    /// Aliases in the order of their ids, from the one after `after`, each with the id of its entity.
    pub async fn aliases(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Alias)>, IdentityError> {
        let mut aliases = Vec::new();
        for (id, _) in self.page::<String>(ALIASES, after, limit).await? {
            if let Some((entity, alias)) = self.alias(&id).await? {
                aliases.push((entity.id, alias));
            }
        }
        Ok(aliases)
    }

    /// Deletes an entity with its aliases and memberships. Gives the ids that may hold nothing from now
    /// on; none where there was no such entity.
    pub async fn delete_entity(&self, which: Which<'_>) -> Result<Vec<String>, IdentityError> {
        for _ in 0..RACES {
            let Some(entity) = self.find_entity(which).await? else {
                return Ok(Vec::new());
            };
            let record = &entity.record;
            let mut change = Change::default();
            change.delete(entity_name_key(&record.name));
            for alias in &record.aliases {
                forget_alias(&mut change, alias);
            }
            for membership in &record.memberships {
                change.delete(member_key(&membership.group, &record.id));
            }
            for id in &record.merged_ids {
                change.delete(merged_key(id));
            }
            if let Some(end) = record.ends_at {
                change.reprieve(record.all_ids(), end);
            }
            change.withdraw(record.all_ids(), self.clock.now());
            change.delete_entity(&entity);
            if self.commit(change).await? {
                return Ok(entity.record.all_ids().map(str::to_owned).collect());
            }
        }
        Err(raced())
    }

    /// Makes entities part of another: their aliases, memberships and tokens become its own; their
    /// policies and metadata are lost.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] where two have an alias in one mount and `keep_aliases` does not say
    /// which one stays.
    pub async fn merge_entities(&self, merge: &Merge) -> Result<Written<Entity>, IdentityError> {
        if merge.into.is_empty() {
            return Err(IdentityError::invalid("missing entity id to merge to"));
        }
        if merge.from.is_empty() {
            return Err(IdentityError::invalid("missing entity ids to merge from"));
        }
        if merge.from.len() > 1 && merge.keep_aliases.len() > 1 {
            return Err(IdentityError::invalid(
                "aliases conflicts cannot be resolved with multiple from entity ids - merge one entity at a time",
            ));
        }
        for _ in 0..RACES {
            let Some(mut into) = self.load_entity(&merge.into).await? else {
                return Err(IdentityError::invalid("entity id to merge to is invalid"));
            };
            let mut from = Vec::new();
            for id in merge.from.iter().collect::<BTreeSet<_>>() {
                if *id == into.record.id {
                    return Err(IdentityError::invalid(
                        "to_entity_id should not be present in from_entity_ids",
                    ));
                }
                let Some(entity) = self.load_entity(id).await? else {
                    return Err(IdentityError::invalid("entity id to merge from is invalid"));
                };
                from.push(entity);
            }
            if merge.keep_aliases.is_empty() {
                refuse_clashes(&into.record, &from)?;
            }
            let now = self.clock.now();
            let mut change = Change::default();
            let mut withdrawn = Vec::new();
            for entity in from {
                absorb(
                    &mut change,
                    &mut into.record,
                    entity,
                    &merge.keep_aliases,
                    now,
                )?;
            }
            into.record.updated_at = now;
            // What was issued to those that were merged ends with it.
            if let Some(end) = into.record.ends_at {
                change.withdraw(into.record.all_ids(), end);
            }
            if into.record.is_withdrawn(now) {
                change.withdraw(into.record.all_ids(), now);
                withdrawn.extend(into.record.all_ids().map(str::to_owned));
            }
            change.entity(&into)?;
            if self.commit(change).await? {
                return Ok(Written {
                    record: into.record,
                    created: false,
                    withdrawn,
                });
            }
        }
        Err(raced())
    }

    fn fresh_entity(&self, name: Option<String>) -> Loaded<Entity> {
        let name = name.unwrap_or_else(|| self.new_name("entity"));
        Loaded {
            record: self.new_entity(name),
            revision: None,
        }
    }

    pub(super) async fn find_entity(
        &self,
        which: Which<'_>,
    ) -> Result<Option<Loaded<Entity>>, IdentityError> {
        match which {
            Which::New => Ok(None),
            Which::Id(id) => self.load_entity(id).await,
            Which::Named(name) => match self.read::<Named>(&entity_name_key(name)).await? {
                Some(named) => self.load_entity(&named.record.id).await,
                None => Ok(None),
            },
        }
    }

    pub(super) async fn find_alias(
        &self,
        id: &str,
    ) -> Result<Option<(Loaded<Entity>, Alias)>, IdentityError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Some(owner) = self.read::<String>(&alias_key(id)).await? else {
            return Ok(None);
        };
        let Some(entity) = self.load_entity(&owner.record).await? else {
            return Ok(None);
        };
        let alias = entity.record.aliases.iter().find(|alias| alias.id == id);
        Ok(alias.cloned().map(|alias| (entity, alias)))
    }
}

/// Makes `from` part of `into`.
fn absorb(
    change: &mut Change,
    into: &mut Entity,
    from: Loaded<Entity>,
    keep: &[String],
    now: SystemTime,
) -> Result<(), IdentityError> {
    change.delete_entity(&from);
    let from = from.record;
    change.delete(entity_name_key(&from.name));
    if let Some(end) = from.ends_at {
        change.reprieve(from.all_ids(), end);
    }
    for mut alias in from.aliases {
        if let Some(at) = into
            .aliases
            .iter()
            .position(|own| own.mount_accessor == alias.mount_accessor)
        {
            let own = into.aliases.remove(at);
            if keep.contains(&own.id) {
                forget_alias(change, &alias);
                into.aliases.insert(at, own);
                continue;
            }
            if !keep.contains(&alias.id) {
                return Err(IdentityError::invalid(format!(
                    "conflicting mount accessors in following alias IDs and neither were present in \
                     conflicting_alias_ids_to_keep: {}, {}",
                    alias.id, own.id
                )));
            }
            forget_alias(change, &own);
        }
        alias.merged_from.push(from.id.clone());
        alias.updated_at = now;
        change.put(factor_key(&alias.mount_accessor, &alias.name), &into.id)?;
        change.put(alias_key(&alias.id), &into.id)?;
        into.aliases.push(alias);
    }
    for membership in from.memberships {
        change.delete(member_key(&membership.group, &from.id));
        let member = into
            .memberships
            .iter()
            .any(|own| own.group == membership.group);
        if !member {
            change.put(member_key(&membership.group, &into.id), &membership.via)?;
            into.join(membership);
        }
    }
    for id in from.merged_ids.iter().chain([&from.id]) {
        change.put(merged_key(id), &into.id)?;
        into.merged_ids.push(id.clone());
    }
    Ok(())
}

fn apply(record: &mut Entity, patch: &EntityPatch) {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if let Some(name) = &patch.name {
        record.name.clone_from(name);
    }
    if let Some(metadata) = &patch.metadata {
        record.metadata.clone_from(metadata);
    }
    if let Some(policies) = &patch.policies {
        record.policies.clone_from(policies);
    }
    if let Some(disabled) = patch.disabled {
        record.disabled = disabled;
    }
    if let Some(owner) = &patch.owner {
        record.owner = text(owner);
    }
    if let Some(environment) = &patch.environment {
        record.environment = text(environment);
    }
    if let Some(ends_at) = patch.ends_at {
        record.ends_at = ends_at;
    }
}

/// Deletes the rows of an alias that its entity no longer has.
pub(super) fn forget_alias(change: &mut Change, alias: &Alias) {
    change.delete(factor_key(&alias.mount_accessor, &alias.name));
    change.delete(alias_key(&alias.id));
}

fn refuse_clashes(into: &Entity, from: &[Loaded<Entity>]) -> Result<(), IdentityError> {
    let mut clashes = Vec::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for entity in from.iter().map(|entity| &entity.record) {
        for alias in &entity.aliases {
            let accessor = alias.mount_accessor.as_str();
            if let Some(own) = into.alias_at(accessor) {
                clashes.push(format!(
                    "mountAccessor: {accessor}, toEntity ID: {}, fromEntity ID: {}, conflicting toEntity \
                     alias ID: {}, conflicting fromEntity alias ID: {}",
                    into.id, entity.id, own.id, alias.id
                ));
            } else if seen.insert(accessor, &entity.id).is_some() {
                return Err(IdentityError::invalid(format!(
                    "mount accessor {accessor} found in multiple fromEntities, merge should be done with \
                     one fromEntity at a time"
                )));
            }
        }
    }
    if clashes.is_empty() {
        return Ok(());
    }
    Err(IdentityError::invalid(format!(
        "toEntity and at least one fromEntity have aliases with the same mount accessor, repeat the merge \
         request specifying exactly one fromEntity, clashes: {}",
        clashes.join("; ")
    )))
}
