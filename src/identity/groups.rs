//! Groups and their aliases.
//!
//! **Invariant:** no group is a member of itself, by whatever way: a new membership is written only if
//! every group below it is as it was when the way was searched.

use std::collections::{BTreeMap, BTreeSet};

use super::check;
use super::entities::Which;
use super::login::LoginMount;
use super::record::{
    GROUP_ALIASES, GROUP_NAMES, GROUPS, Group, GroupAlias, GroupKind, Membership, Named, Via,
    group_alias_key, group_factor_key, group_factor_prefix, group_key, group_name_key, is_id,
    member_key, member_prefix,
};
use super::store::{Change, Identity, IdentityError, Loaded, RACES, Written, raced};

/// Members that one write may name, and groups that may lie below one.
const MOST_MEMBERS: usize = 10_000;
/// Members that are read of one group.
const MOST_LISTED: usize = 1_000_000;
/// Members whose records are written together.
const PAGE: usize = 256;

/// What a write changes about a group; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct GroupPatch {
    /// A new name.
    pub name: Option<String>,
    /// What it is; cannot change.
    pub kind: Option<GroupKind>,
    /// All of its policies.
    pub policies: Option<Vec<String>>,
    /// All of the metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// All entities that are direct members; of an internal group only.
    pub member_entities: Option<Vec<String>>,
    /// All groups whose members are its members; of an internal group only.
    pub member_groups: Option<Vec<String>>,
}

/// What a write says about the alias of an external group.
#[derive(Clone, Debug)]
pub struct GroupAliasPatch {
    /// Which alias; a new one if none.
    pub id: Option<String>,
    /// The group's name in the auth method.
    pub name: Option<String>,
    /// The mount it is a name in.
    pub mount: LoginMount,
    /// Which group; a new one if none.
    pub group_id: Option<String>,
}

impl Identity {
    /// Makes or changes a group.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] for a cycle, a member of nobody, a name in use, or members of an external
    /// group.
    pub async fn put_group(
        &self,
        which: Which<'_>,
        mut patch: GroupPatch,
    ) -> Result<Written<Group>, IdentityError> {
        patch.name = check::name(patch.name)?;
        patch.policies = patch.policies.map(check::policies).transpose()?;
        if let Some(metadata) = &patch.metadata {
            check::metadata("metadata", metadata)?;
        }
        for members in [&patch.member_entities, &patch.member_groups] {
            if members
                .as_ref()
                .is_some_and(|members| members.len() > MOST_MEMBERS)
            {
                return Err(IdentityError::invalid(format!(
                    "more than {MOST_MEMBERS} members cannot be written at a time"
                )));
            }
        }
        for _ in 0..RACES {
            let (mut group, old_name) = match self.find_group(which).await? {
                Some(group) => {
                    let name = group.record.name.clone();
                    (group, Some(name))
                }
                None => match which {
                    Which::Id(_) => return Err(IdentityError::invalid("invalid group ID")),
                    Which::Named(name) => {
                        let name = check::name(Some(name.to_owned()))?;
                        (self.fresh_group(name, patch.kind), None)
                    }
                    Which::New => (self.fresh_group(patch.name.clone(), patch.kind), None),
                },
            };
            let mut change = Change::default();
            let record = &mut group.record;
            if patch.kind.is_some_and(|kind| kind != record.kind) {
                return Err(IdentityError::invalid("group type cannot be changed"));
            }
            refuse_members(record.kind, &patch)?;
            if let Some(name) = &patch.name {
                record.name.clone_from(name);
            }
            if let Some(policies) = &patch.policies {
                record.policies.clone_from(policies);
            }
            if let Some(metadata) = &patch.metadata {
                record.metadata.clone_from(metadata);
            }
            if old_name.as_ref() != Some(&record.name) {
                let key = group_name_key(&record.name);
                let old_key = old_name.as_deref().map(group_name_key);
                if old_key.as_ref() != Some(&key) {
                    if self.read::<Named>(&key).await?.is_some() {
                        if old_name.is_none() {
                            // Made by another request since it was looked for.
                            continue;
                        }
                        return Err(IdentityError::invalid("group name is already in use"));
                    }
                    change.expect(key, None);
                    if let Some(old_key) = old_key {
                        change.delete(old_key);
                    }
                }
                put_group_name(&mut change, record)?;
            }
            let internal = record.kind == GroupKind::Internal;
            if let Some(members) = patch.member_groups.as_ref().filter(|_| internal) {
                self.set_member_groups(&mut change, record, members).await?;
            }
            if let Some(members) = patch.member_entities.as_ref().filter(|_| internal) {
                self.set_member_entities(&mut change, record, members)
                    .await?;
            }
            self.write_group(&mut change, &mut group)?;
            if self.commit(change).await? {
                return Ok(Written {
                    record: group.record,
                    created: old_name.is_none(),
                    withdrawn: Vec::new(),
                });
            }
        }
        Err(raced())
    }

    /// A group, by id or name.
    pub async fn group(&self, which: Which<'_>) -> Result<Option<Group>, IdentityError> {
        Ok(self.find_group(which).await?.map(|group| group.record))
    }

    /// The group that has an alias of that id.
    pub async fn group_by_alias_id(&self, id: &str) -> Result<Option<Group>, IdentityError> {
        Ok(self.find_group_alias(id).await?.map(|group| group.record))
    }

    /// The group that has an alias of that name in a mount.
    pub async fn group_by_alias(
        &self,
        accessor: &str,
        name: &str,
    ) -> Result<Option<Group>, IdentityError> {
        let key = group_factor_key(accessor, name);
        match self.read::<String>(&key).await? {
            Some(id) => self.group(Which::Id(&id.record)).await,
            None => Ok(None),
        }
    }

    /// Groups in the order of their ids, from the one after `after`.
    pub async fn groups(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Group>, IdentityError> {
        let page = self.page::<Group>(GROUPS, after, limit).await?;
        Ok(page.into_iter().map(|(_, group)| group).collect())
    }

    /// Names of groups, without regard to case in order.
    pub async fn group_names(&self, limit: usize) -> Result<Vec<String>, IdentityError> {
        let page = self.page::<Named>(GROUP_NAMES, None, limit).await?;
        Ok(page.into_iter().map(|(_, named)| named.name).collect())
    }

    /// Groups that have an alias, in the order of the aliases' ids.
    pub async fn aliased_groups(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Group>, IdentityError> {
        let mut groups = Vec::new();
        for (_, id) in self.page::<String>(GROUP_ALIASES, after, limit).await? {
            if let Some(group) = self.group(Which::Id(&id)).await? {
                groups.push(group);
            }
        }
        Ok(groups)
    }

    /// Ids of the entities that are direct members of a group.
    pub async fn members(&self, group: &Group, limit: usize) -> Result<Vec<String>, IdentityError> {
        let prefix = member_prefix(&group.id);
        let page = self.page::<Option<Via>>(&prefix, None, limit).await?;
        let counts = |(entity, via)| {
            let membership = Membership {
                group: group.id.clone(),
                via,
            };
            group.honours(&membership).then_some(entity)
        };
        Ok(page.into_iter().filter_map(counts).collect())
    }

    /// Deletes a group. What it granted is gone at once; no error where there is none.
    pub async fn delete_group(&self, which: Which<'_>) -> Result<(), IdentityError> {
        for _ in 0..RACES {
            let Some(group) = self.find_group(which).await? else {
                return Ok(());
            };
            let record = &group.record;
            let mut change = Change::default();
            change.delete(group_name_key(&record.name));
            if let Some(alias) = &record.alias {
                forget_group_alias(&mut change, alias);
            }
            // A group may be above and below only by a cycle, which there is none.
            for id in &record.parents {
                if let Some(mut parent) = self.load_group(id).await? {
                    parent.record.member_groups.retain(|id| *id != record.id);
                    change.group(&parent)?;
                }
            }
            for id in &record.member_groups {
                if let Some(mut member) = self.load_group(id).await? {
                    member.record.parents.retain(|id| *id != record.id);
                    change.group(&member)?;
                }
            }
            change.delete_group(&group);
            if self.commit(change).await? {
                // From here on no membership counts; what is left of them is only in the way.
                return self.forget_members(&group.record.id).await;
            }
        }
        Err(raced())
    }

    /// Gives an external group its alias, or changes it. Memberships by an earlier alias end. Gives the
    /// group, which has it.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] for an internal group, or a name in use.
    pub async fn put_group_alias(
        &self,
        mut patch: GroupAliasPatch,
    ) -> Result<Group, IdentityError> {
        patch.name = check::name(patch.name)?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        patch.id = given(patch.id);
        patch.group_id = given(patch.group_id);
        for _ in 0..RACES {
            let holder = match &patch.id {
                Some(id) => Some(
                    self.find_group_alias(id)
                        .await?
                        .ok_or_else(|| IdentityError::invalid("invalid group alias ID"))?,
                ),
                None => None,
            };
            let old = holder.as_ref().and_then(|group| group.record.alias.clone());
            let name = patch
                .name
                .clone()
                .or_else(|| old.as_ref().map(|alias| alias.name.clone()))
                .ok_or_else(|| IdentityError::invalid("missing alias name"))?;
            let mut change = Change::default();
            let mut group = match (&patch.group_id, holder) {
                (Some(id), Some(holder)) if *id == holder.record.id => holder,
                (None, Some(holder)) => holder,
                (Some(id), holder) => {
                    let group = self.load_group(id).await?.ok_or_else(|| {
                        IdentityError::invalid("invalid group ID given in 'canonical_id'")
                    })?;
                    if let Some(mut holder) = holder {
                        holder.record.alias = None;
                        self.write_group(&mut change, &mut holder)?;
                    }
                    group
                }
                (None, None) => {
                    let group = self.fresh_group(None, Some(GroupKind::External));
                    change.expect(group_name_key(&group.record.name), None);
                    put_group_name(&mut change, &group.record)?;
                    group
                }
            };
            if group.record.kind == GroupKind::Internal {
                return Err(IdentityError::invalid(
                    "alias can't be set on an internal group",
                ));
            }
            let factor = group_factor_key(&patch.mount.accessor, &name);
            let user = self.read::<String>(&factor).await?;
            let own = [&old, &group.record.alias]
                .into_iter()
                .flatten()
                .any(|own| own.mount_accessor == patch.mount.accessor && own.name == name);
            if user.is_some() && !own {
                return Err(IdentityError::invalid(
                    "combination of mount and group alias name is already in use",
                ));
            }
            for earlier in [&old, &group.record.alias].into_iter().flatten() {
                forget_group_alias(&mut change, earlier);
            }
            let now = self.clock.now();
            let earlier = old.or_else(|| group.record.alias.clone());
            let alias = GroupAlias {
                id: earlier
                    .as_ref()
                    .map_or_else(|| self.new_id(), |alias| alias.id.clone()),
                name,
                mount_accessor: patch.mount.accessor.clone(),
                mount_path: patch.mount.path.clone(),
                mount_type: patch.mount.kind.clone(),
                created_at: earlier.map_or(now, |alias| alias.created_at),
                updated_at: now,
            };
            change.expect(factor.clone(), user.and_then(|user| user.revision));
            change.put(factor, &group.record.id)?;
            change.put(group_alias_key(&alias.id), &group.record.id)?;
            group.record.alias = Some(alias);
            self.write_group(&mut change, &mut group)?;
            if self.commit(change).await? {
                return Ok(group.record);
            }
        }
        Err(raced())
    }

    /// Deletes the alias of a group, and with it every membership; the group stays.
    pub async fn delete_group_alias(&self, id: &str) -> Result<(), IdentityError> {
        for _ in 0..RACES {
            let Some(mut group) = self.find_group_alias(id).await? else {
                return Ok(());
            };
            let mut change = Change::default();
            if let Some(alias) = group.record.alias.take() {
                forget_group_alias(&mut change, &alias);
            }
            self.write_group(&mut change, &mut group)?;
            if self.commit(change).await? {
                return Ok(());
            }
        }
        Err(raced())
    }

    pub(super) async fn forget_group_aliases(&self, accessor: &str) -> Result<(), IdentityError> {
        let prefix = group_factor_prefix(accessor);
        loop {
            let page = self.page::<String>(&prefix, None, PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            for (name, id) in page {
                let group = self.group(Which::Id(&id)).await?;
                match group.and_then(|group| group.alias) {
                    Some(alias) => self.delete_group_alias(&alias.id).await?,
                    // A row of nobody must not be met for ever.
                    None => self.delete_row(format!("{prefix}{name}")).await?,
                }
            }
        }
    }

    /// Replaces the groups that a group is made of, both ways, unless that would close a circle.
    async fn set_member_groups(
        &self,
        change: &mut Change,
        group: &mut Group,
        members: &[String],
    ) -> Result<(), IdentityError> {
        let wanted: BTreeSet<&String> = members.iter().collect();
        let mut below: BTreeMap<String, Loaded<Group>> = BTreeMap::new();
        for id in &wanted {
            if **id == group.id {
                return Err(IdentityError::invalid(format!(
                    "member group ID \"{id}\" is same as the ID of the group"
                )));
            }
            let mut search = vec![(*id).clone()];
            while let Some(next) = search.pop() {
                if next == group.id {
                    return Err(IdentityError::invalid(format!(
                        "cyclic relationship detected for member group ID \"{id}\""
                    )));
                }
                if below.contains_key(&next) {
                    continue;
                }
                if below.len() >= MOST_MEMBERS {
                    return Err(IdentityError::invalid(format!(
                        "more than {MOST_MEMBERS} groups would lie below this one"
                    )));
                }
                let Some(found) = self.load_group(&next).await? else {
                    if next == **id {
                        return Err(IdentityError::invalid("invalid member group ID"));
                    }
                    continue;
                };
                search.extend(found.record.member_groups.iter().cloned());
                below.insert(next, found);
            }
        }
        for id in &group.member_groups {
            if !wanted.contains(id)
                && let Some(mut member) = self.load_group(id).await?
            {
                member.record.parents.retain(|parent| *parent != group.id);
                member.record.modify_index += 1;
                // It may lie below another member too, and is written once.
                match below.get_mut(id) {
                    Some(known) => known.record = member.record,
                    None => drop(below.insert(id.clone(), member)),
                }
            }
        }
        for id in &wanted {
            if let Some(member) = below.get_mut(*id)
                && !member.record.parents.contains(&group.id)
            {
                member.record.parents.push(group.id.clone());
                member.record.modify_index += 1;
            }
        }
        for (id, member) in &below {
            let linked = wanted.contains(id);
            if linked || group.member_groups.contains(id) {
                change.group(member)?;
            } else {
                change.expect(group_key(id), member.revision);
            }
        }
        group.member_groups = wanted.into_iter().cloned().collect();
        Ok(())
    }

    /// Replaces the entities that are direct members, in the group's rows and in their records.
    async fn set_member_entities(
        &self,
        change: &mut Change,
        group: &Group,
        members: &[String],
    ) -> Result<(), IdentityError> {
        let prefix = member_prefix(&group.id);
        let current = self.page::<Option<Via>>(&prefix, None, MOST_LISTED).await?;
        let current: BTreeSet<String> = current.into_iter().map(|(entity, _)| entity).collect();
        let wanted: BTreeSet<String> = members.iter().cloned().collect();
        for id in wanted.symmetric_difference(&current) {
            let joins = wanted.contains(id);
            let Some(mut entity) = self.load_entity(id).await? else {
                if joins {
                    return Err(IdentityError::invalid("invalid entity ID"));
                }
                change.delete(member_key(&group.id, id));
                continue;
            };
            if joins {
                change.put(member_key(&group.id, id), &None::<Via>)?;
                entity.record.join(Membership {
                    group: group.id.clone(),
                    via: None,
                });
            } else {
                change.delete(member_key(&group.id, id));
                entity.record.leave(&group.id);
            }
            change.entity(&entity)?;
        }
        Ok(())
    }

    /// Clears away what is left of the memberships of a group that is gone.
    async fn forget_members(&self, group: &str) -> Result<(), IdentityError> {
        let prefix = member_prefix(group);
        for _ in 0..RACES {
            let mut raced = false;
            while !raced {
                let page = self.page::<Option<Via>>(&prefix, None, PAGE).await?;
                if page.is_empty() {
                    return Ok(());
                }
                let mut change = Change::default();
                for (id, _) in page {
                    if let Some(mut entity) = self.load_entity(&id).await? {
                        entity.record.leave(group);
                        change.entity(&entity)?;
                    }
                    change.delete(member_key(group, &id));
                }
                raced = !self.commit(change).await?;
            }
        }
        // The rest counts for nothing and is overwritten when its entities are.
        Ok(())
    }

    fn write_group(
        &self,
        change: &mut Change,
        group: &mut Loaded<Group>,
    ) -> Result<(), IdentityError> {
        group.record.updated_at = self.clock.now();
        group.record.modify_index += 1;
        change.group(group)
    }

    fn fresh_group(&self, name: Option<String>, kind: Option<GroupKind>) -> Loaded<Group> {
        let now = self.clock.now();
        let record = Group {
            id: self.new_id(),
            name: name.unwrap_or_else(|| self.new_name("group")),
            kind: kind.unwrap_or(GroupKind::Internal),
            policies: Vec::new(),
            metadata: BTreeMap::new(),
            alias: None,
            member_groups: Vec::new(),
            parents: Vec::new(),
            modify_index: 0,
            created_at: now,
            updated_at: now,
        };
        Loaded {
            record,
            revision: None,
        }
    }

    async fn find_group(&self, which: Which<'_>) -> Result<Option<Loaded<Group>>, IdentityError> {
        let name = match which {
            Which::New => return Ok(None),
            Which::Id(id) => return self.load_group(id).await,
            Which::Named(name) => name,
        };
        match self.read::<Named>(&group_name_key(name)).await? {
            Some(named) => self.load_group(&named.record.id).await,
            None => Ok(None),
        }
    }

    async fn find_group_alias(&self, id: &str) -> Result<Option<Loaded<Group>>, IdentityError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Some(owner) = self.read::<String>(&group_alias_key(id)).await? else {
            return Ok(None);
        };
        let group = self.load_group(&owner.record).await?;
        Ok(group.filter(|group| {
            let alias = group.record.alias.as_ref();
            alias.is_some_and(|alias| alias.id == id)
        }))
    }
}

fn put_group_name(change: &mut Change, group: &Group) -> Result<(), IdentityError> {
    let named = Named {
        id: group.id.clone(),
        name: group.name.clone(),
    };
    change.put(group_name_key(&group.name), &named)
}

fn forget_group_alias(change: &mut Change, alias: &GroupAlias) {
    change.delete(group_factor_key(&alias.mount_accessor, &alias.name));
    change.delete(group_alias_key(&alias.id));
}

fn refuse_members(kind: GroupKind, patch: &GroupPatch) -> Result<(), IdentityError> {
    if kind == GroupKind::Internal {
        return Ok(());
    }
    if patch
        .member_entities
        .as_ref()
        .is_some_and(|members| !members.is_empty())
    {
        return Err(IdentityError::invalid(
            "member entities can't be set manually for external groups",
        ));
    }
    if patch
        .member_groups
        .as_ref()
        .is_some_and(|members| !members.is_empty())
    {
        return Err(IdentityError::invalid(
            "member groups can't be set for external groups",
        ));
    }
    Ok(())
}
