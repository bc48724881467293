//! [`Standing`]: everything a request needs to know of the entity behind it.
//!
//! Asked on every request, so it is remembered, and told to be stale by counters that every write moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::record::{Alias, Entity, Group, Membership};
use super::store::{Identity, IdentityError, Stamp};

/// An entity with all that follows from its groups, as of one instant.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its id; of an entity that was merged, that of the one it was merged into.
    pub id: String,
    /// For people.
    pub name: String,
    /// It may do nothing: disabled, or past its end.
    pub disabled: bool,
    /// Its own policies and those of all its groups; sorted, each once.
    pub policies: Vec<String>,
    /// Free key-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Where it belongs.
    pub environment: Option<String>,
    /// From then on it is disabled.
    pub ends_at: Option<SystemTime>,
    /// Its groups: first those it is a direct member of.
    pub groups: Vec<StandingGroup>,
    /// Its names in auth methods.
    pub aliases: Vec<Alias>,
    /// What logins said of its groups, stale or not.
    pub(super) vouched: Vec<Membership>,
}

/// A group of a [`Standing`].
#[derive(Clone, Debug)]
pub struct StandingGroup {
    /// Names it for ever.
    pub id: String,
    /// For people.
    pub name: String,
    /// Free key-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// Whether the entity is a member itself, and not by another group.
    pub direct: bool,
}

impl Standing {
    /// Ids of all its groups.
    pub fn group_ids(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.id.as_str())
    }

    /// Its alias in one mount.
    pub fn alias_at(&self, accessor: &str) -> Option<&Alias> {
        self.aliases
            .iter()
            .find(|alias| alias.mount_accessor == accessor)
    }
}

/// A standing, and the version of the world it was true in.
#[derive(Clone)]
pub(super) struct Remembered {
    stamp: Stamp,
    standing: Arc<Standing>,
}

impl Identity {
    /// How an entity stands; `None` where there is no such entity (any more), and a token for it opens
    /// nothing.
    pub async fn standing(&self, entity_id: &str) -> Result<Option<Arc<Standing>>, IdentityError> {
        // Before anything is read: what is written from here on makes it stale.
        let stamp = self.stamp(entity_id);
        if let Some(known) = self.standings.get(entity_id)
            && known.stamp == stamp
        {
            return Ok(Some(self.as_of_now(known.standing)));
        }
        let Some(entity) = self.resolve(entity_id).await? else {
            self.standings.remove(entity_id);
            return Ok(None);
        };
        let merged = entity.record.id != entity_id;
        let standing = Arc::new(self.stand(entity.record).await?);
        // One that was merged is asked for rarely, and not told when its successor changes.
        if !merged {
            let remembered = Remembered {
                stamp,
                standing: Arc::clone(&standing),
            };
            self.standings.insert(entity_id.to_owned(), remembered);
        }
        Ok(Some(self.as_of_now(standing)))
    }

    /// An entity may end without being written.
    fn as_of_now(&self, standing: Arc<Standing>) -> Arc<Standing> {
        match standing.ends_at {
            Some(end) if !standing.disabled && end <= self.clock.now() => Arc::new(Standing {
                disabled: true,
                ..Standing::clone(&standing)
            }),
            _ => standing,
        }
    }

    /// Gathers the groups of an entity, and theirs.
    pub(super) async fn groups_of(
        &self,
        entity: &Entity,
    ) -> Result<Vec<(Group, bool)>, IdentityError> {
        let mut seen = BTreeSet::new();
        let mut groups = Vec::new();
        for membership in &entity.memberships {
            if seen.contains(&membership.group) {
                continue;
            }
            if let Some(group) = self.load_group(&membership.group).await?
                && group.record.honours(membership)
            {
                seen.insert(membership.group.clone());
                groups.push((group.record, true));
            }
        }
        let mut next = 0;
        while let Some((group, _)) = groups.get(next) {
            next += 1;
            for parent in group.parents.clone() {
                if seen.insert(parent.clone())
                    && let Some(group) = self.load_group(&parent).await?
                {
                    groups.push((group.record, false));
                }
            }
        }
        Ok(groups)
    }

    async fn stand(&self, entity: Entity) -> Result<Standing, IdentityError> {
        let groups = self.groups_of(&entity).await?;
        let mut policies: BTreeSet<String> = entity.policies.into_iter().collect();
        let groups = groups
            .into_iter()
            .map(|(group, direct)| {
                policies.extend(group.policies);
                StandingGroup {
                    id: group.id,
                    name: group.name,
                    metadata: group.metadata,
                    direct,
                }
            })
            .collect();
        let mut vouched = entity.memberships;
        vouched.retain(|membership| membership.via.is_some());
        Ok(Standing {
            id: entity.id,
            name: entity.name,
            disabled: entity.disabled,
            policies: policies.into_iter().collect(),
            metadata: entity.metadata,
            owner: entity.owner,
            environment: entity.environment,
            ends_at: entity.ends_at,
            groups,
            aliases: entity.aliases,
            vouched,
        })
    }
}
