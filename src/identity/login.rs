//! What a login means for identity: alias → entity, and the groups an auth method vouches for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{
    Alias, Entity, Membership, Via, alias_key, entity_name_key, factor_key, group_factor_key,
    group_key, member_key,
};
use super::record::{Group, Named};
use super::standing::Standing;
use super::store::{Change, Identity, IdentityError, Loaded, RACES, raced};

/// A mount that entities have names in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginMount {
    /// Names it for ever.
    pub accessor: String,
    /// Where it is now, as the API shows it: `auth/approle/`.
    pub path: String,
    /// Its kind: `approle`.
    pub kind: String,
}

/// Who an auth method says is logging in.
#[derive(Clone, Debug)]
pub struct AliasClaim {
    /// Unique in its mount; case counts.
    pub name: String,
    /// What it says of them.
    pub metadata: BTreeMap<String, String>,
}

impl Identity {
    /// The entity that logs in, made where it is new, with the groups that its auth method vouches for:
    /// of those that have an alias in this mount it is a member exactly of the ones named.
    ///
    /// Where nothing is new this writes nothing and reads one row, and one for each group named.
    ///
    /// # Errors
    /// [`IdentityError::Disabled`] where the entity may do nothing.
    pub async fn login(
        &self,
        mount: &LoginMount,
        alias: &AliasClaim,
        external_groups: &[String],
    ) -> Result<Arc<Standing>, IdentityError> {
        if alias.name.is_empty() || alias.name.len() > 512 {
            return Err(IdentityError::invalid(
                "the auth method gave no name for an alias, or one longer than 512 bytes",
            ));
        }
        for _ in 0..RACES {
            let factor = factor_key(&mount.accessor, &alias.name);
            let Some(owner) = self.read::<String>(&factor).await? else {
                self.first_login(mount, alias, external_groups).await?;
                continue;
            };
            let Some(standing) = self.standing(&owner.record).await? else {
                // Deleted since its name was read.
                continue;
            };
            if standing.disabled {
                return Err(IdentityError::Disabled);
            }
            let groups = self.vouched_groups(mount, external_groups).await?;
            let current = standing
                .vouched
                .iter()
                .filter(|membership| speaks(membership, mount));
            let known = standing.alias_at(&mount.accessor).is_some_and(|known| {
                known.name == alias.name
                    && known.metadata == alias.metadata
                    && known.mount_path == mount.path
            });
            if known && same(current, &groups) {
                return Ok(standing);
            }
            self.later_login(&standing.id, mount, alias, &groups)
                .await?;
        }
        Err(raced())
    }

    /// The groups that have these names in this mount.
    async fn vouched_groups(
        &self,
        mount: &LoginMount,
        names: &[String],
    ) -> Result<Vec<(Loaded<Group>, Membership)>, IdentityError> {
        let mut groups: Vec<(Loaded<Group>, Membership)> = Vec::new();
        for name in names {
            let key = group_factor_key(&mount.accessor, name);
            let Some(id) = self.read::<String>(&key).await? else {
                continue;
            };
            let Some(group) = self.load_group(&id.record).await? else {
                continue;
            };
            let membership = Membership {
                group: id.record,
                via: Some(Via {
                    accessor: mount.accessor.clone(),
                    name: name.clone(),
                }),
            };
            if group.record.honours(&membership)
                && !groups.iter().any(|(_, known)| *known == membership)
            {
                groups.push((group, membership));
            }
        }
        Ok(groups)
    }

    /// Makes alias and entity, unless another login was faster.
    async fn first_login(
        &self,
        mount: &LoginMount,
        claim: &AliasClaim,
        external_groups: &[String],
    ) -> Result<(), IdentityError> {
        let groups = self.vouched_groups(mount, external_groups).await?;
        let mut alias = self.new_alias(mount, claim.name.clone());
        alias.metadata.clone_from(&claim.metadata);
        let mut entity = Loaded {
            record: self.new_entity(self.new_name("entity")),
            revision: None,
        };
        let mut change = Change::default();
        add_alias(&mut change, &mut entity.record, alias)?;
        join(&mut change, &mut entity.record, &groups)?;
        change.expect(entity_name_key(&entity.record.name), None);
        put_entity_name(&mut change, &entity.record)?;
        change.entity(&entity)?;
        self.commit(change).await.map(drop)
    }

    /// Notes what changed since the last login, unless something else changed meanwhile.
    async fn later_login(
        &self,
        entity: &str,
        mount: &LoginMount,
        claim: &AliasClaim,
        groups: &[(Loaded<Group>, Membership)],
    ) -> Result<(), IdentityError> {
        let Some(mut entity) = self.load_entity(entity).await? else {
            return Ok(());
        };
        let now = self.clock.now();
        let record = &mut entity.record;
        let Some(alias) = record
            .aliases
            .iter_mut()
            .find(|alias| alias.mount_accessor == mount.accessor && alias.name == claim.name)
        else {
            return Ok(());
        };
        if alias.metadata != claim.metadata || alias.mount_path != mount.path {
            alias.metadata.clone_from(&claim.metadata);
            alias.mount_path.clone_from(&mount.path);
            alias.mount_type.clone_from(&mount.kind);
            alias.updated_at = now;
        }
        let mut change = Change::default();
        let (gone, kept) = std::mem::take(&mut record.memberships)
            .into_iter()
            .partition(|membership| {
                speaks(membership, mount) && !groups.iter().any(|(_, wanted)| wanted == membership)
            });
        record.memberships = kept;
        let gone: Vec<Membership> = gone;
        for membership in gone {
            change.delete(member_key(&membership.group, &record.id));
        }
        join(&mut change, record, groups)?;
        change.entity(&entity)?;
        self.commit(change).await.map(drop)
    }

    pub(super) fn new_entity(&self, name: String) -> Entity {
        let now = self.clock.now();
        Entity {
            id: self.new_id(),
            name,
            metadata: BTreeMap::new(),
            policies: Vec::new(),
            disabled: false,
            owner: None,
            environment: None,
            ends_at: None,
            created_at: now,
            updated_at: now,
            merged_ids: Vec::new(),
            aliases: Vec::new(),
            memberships: Vec::new(),
        }
    }

    pub(super) fn new_alias(&self, mount: &LoginMount, name: String) -> Alias {
        let now = self.clock.now();
        Alias {
            id: self.new_id(),
            name,
            mount_accessor: mount.accessor.clone(),
            mount_path: mount.path.clone(),
            mount_type: mount.kind.clone(),
            metadata: BTreeMap::new(),
            custom_metadata: BTreeMap::new(),
            merged_from: Vec::new(),
            created_at: now,
            updated_at: now,
        }
    }
}

/// Gives an entity a new alias whose name is still free.
pub(super) fn add_alias(
    change: &mut Change,
    entity: &mut Entity,
    alias: Alias,
) -> Result<(), IdentityError> {
    let factor = factor_key(&alias.mount_accessor, &alias.name);
    change.expect(factor.clone(), None);
    change.put(factor, &entity.id)?;
    change.put(alias_key(&alias.id), &entity.id)?;
    entity.aliases.push(alias);
    Ok(())
}

pub(super) fn put_entity_name(change: &mut Change, entity: &Entity) -> Result<(), IdentityError> {
    let named = Named {
        id: entity.id.clone(),
        name: entity.name.clone(),
    };
    change.put(entity_name_key(&entity.name), &named)
}

/// Whether a membership is one that this mount decides about.
fn speaks(membership: &Membership, mount: &LoginMount) -> bool {
    membership
        .via
        .as_ref()
        .is_some_and(|via| via.accessor == mount.accessor)
}

fn same<'a>(
    current: impl Iterator<Item = &'a Membership>,
    wanted: &[(Loaded<Group>, Membership)],
) -> bool {
    let mut count = 0;
    for membership in current {
        count += 1;
        if !wanted.iter().any(|(_, wanted)| wanted == membership) {
            return false;
        }
    }
    count == wanted.len()
}

/// Makes an entity a member of groups that are unchanged since they were read.
fn join(
    change: &mut Change,
    entity: &mut Entity,
    groups: &[(Loaded<Group>, Membership)],
) -> Result<(), IdentityError> {
    for (group, membership) in groups {
        if entity.memberships.contains(membership) {
            continue;
        }
        change.expect(group_key(&membership.group), group.revision);
        change.put(member_key(&membership.group, &entity.id), &membership.via)?;
        // A membership by an alias that the group no longer has makes room.
        entity.leave(&membership.group);
        entity.join(membership.clone());
    }
    Ok(())
}
