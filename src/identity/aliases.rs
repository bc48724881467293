//! Aliases of entities, as an operator writes them; [`Identity::login`] writes those of logins.

use std::collections::BTreeMap;

use super::check;
use super::entities::forget_alias;
use super::login::{LoginMount, add_alias, put_entity_name};
use super::record::{Alias, Entity, alias_key, entity_name_key, factor_key, factor_prefix};
use super::store::{Change, Identity, IdentityError, Loaded, RACES, Written, raced};

/// Rows read from an index at a time.
const PAGE: usize = 256;

/// What a write changes about an alias; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct AliasPatch {
    /// Which alias; otherwise the one of `name` in `mount`, which is made where there is none.
    pub id: Option<String>,
    /// Its name in the auth method.
    pub name: Option<String>,
    /// The mount it is a name in.
    pub mount: Option<LoginMount>,
    /// Whose name it is. Moves it from another entity; a new alias without one gets a new entity.
    pub entity_id: Option<String>,
    /// All of what an operator says of it.
    pub custom_metadata: Option<BTreeMap<String, String>>,
}

impl Identity {
    /// Makes, changes or moves an alias. Gives it with the id of its entity.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] where the entity has an alias in that mount already, or the name is in use.
    pub async fn put_alias(
        &self,
        mut patch: AliasPatch,
    ) -> Result<Written<(String, Alias)>, IdentityError> {
        patch.name = check::name(patch.name)?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        patch.id = given(patch.id);
        patch.entity_id = given(patch.entity_id);
        if let Some(metadata) = &patch.custom_metadata {
            check::metadata("custom_metadata", metadata)?;
        }
        for _ in 0..RACES {
            let found = match &patch.id {
                Some(id) => Some(
                    self.find_alias(id)
                        .await?
                        .ok_or_else(|| IdentityError::invalid("invalid alias ID provided"))?,
                ),
                None => self.alias_of_factors(&patch).await?,
            };
            let (change, owner, alias, created) = match found {
                Some((entity, alias)) => self.changed_alias(&patch, entity, alias).await?,
                None => self.added_alias(&patch).await?,
            };
            if self.commit(change).await? {
                return Ok(Written {
                    record: (owner, alias),
                    created,
                    withdrawn: Vec::new(),
                });
            }
        }
        Err(raced())
    }

    /// Deletes an alias; its entity stays.
    pub async fn delete_alias(&self, id: &str) -> Result<(), IdentityError> {
        for _ in 0..RACES {
            let Some((mut entity, alias)) = self.find_alias(id).await? else {
                return Ok(());
            };
            let mut change = Change::default();
            forget_alias(&mut change, &alias);
            entity.record.aliases.retain(|known| known.id != alias.id);
            change.entity(&entity)?;
            if self.commit(change).await? {
                return Ok(());
            }
        }
        Err(raced())
    }

    /// Deletes every alias in a mount that is no more. Entities stay, and so do groups without their alias.
    pub async fn forget_mount(&self, accessor: &str) -> Result<(), IdentityError> {
        let prefix = factor_prefix(accessor);
        loop {
            let page = self.page::<String>(&prefix, None, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (name, owner) in page {
                let entity = self.load_entity(&owner).await?;
                let alias = entity.and_then(|entity| entity.record.alias_at(accessor).cloned());
                match alias {
                    Some(alias) => self.delete_alias(&alias.id).await?,
                    // A row of nobody must not be met for ever.
                    None => self.delete_row(format!("{prefix}{name}")).await?,
                }
            }
        }
        self.forget_group_aliases(accessor).await
    }

    async fn alias_of_factors(
        &self,
        patch: &AliasPatch,
    ) -> Result<Option<(Loaded<Entity>, Alias)>, IdentityError> {
        let (Some(name), Some(mount)) = (&patch.name, &patch.mount) else {
            return Err(IdentityError::invalid(
                "'id' or 'mount_accessor' and 'name' must be provided",
            ));
        };
        let key = factor_key(&mount.accessor, name);
        let Some(owner) = self.read::<String>(&key).await? else {
            return Ok(None);
        };
        let entity = self.load_entity(&owner.record).await?.ok_or_else(raced)?;
        let alias = entity
            .record
            .aliases
            .iter()
            .find(|alias| alias.mount_accessor == mount.accessor && alias.name == *name)
            .cloned()
            .ok_or_else(raced)?;
        Ok(Some((entity, alias)))
    }

    async fn added_alias(
        &self,
        patch: &AliasPatch,
    ) -> Result<(Change, String, Alias, bool), IdentityError> {
        let (Some(name), Some(mount)) = (&patch.name, &patch.mount) else {
            return Err(IdentityError::Broken("alias"));
        };
        let mut alias = self.new_alias(mount, name.clone());
        alias.custom_metadata = patch.custom_metadata.clone().unwrap_or_default();
        let mut change = Change::default();
        let mut entity = if let Some(id) = &patch.entity_id {
            self.load_entity(id)
                .await?
                .ok_or_else(|| IdentityError::invalid("invalid canonical ID"))?
        } else {
            let record = self.new_entity(self.new_name("entity"));
            change.expect(entity_name_key(&record.name), None);
            put_entity_name(&mut change, &record)?;
            Loaded {
                record,
                revision: None,
            }
        };
        if entity.record.alias_at(&mount.accessor).is_some() {
            return Err(IdentityError::invalid(
                "Alias already exists for requested entity and mount accessor",
            ));
        }
        add_alias(&mut change, &mut entity.record, alias.clone())?;
        change.entity(&entity)?;
        Ok((change, entity.record.id, alias, true))
    }

    async fn changed_alias(
        &self,
        patch: &AliasPatch,
        mut entity: Loaded<Entity>,
        old: Alias,
    ) -> Result<(Change, String, Alias, bool), IdentityError> {
        let mut alias = old.clone();
        alias.updated_at = self.clock.now();
        if let Some(name) = &patch.name {
            alias.name.clone_from(name);
        }
        if let Some(mount) = &patch.mount {
            alias.mount_accessor.clone_from(&mount.accessor);
            alias.mount_path.clone_from(&mount.path);
            alias.mount_type.clone_from(&mount.kind);
        }
        if let Some(metadata) = &patch.custom_metadata {
            alias.custom_metadata.clone_from(metadata);
        }
        let mut change = Change::default();
        let renamed = (&alias.mount_accessor, &alias.name) != (&old.mount_accessor, &old.name);
        let factor = factor_key(&alias.mount_accessor, &alias.name);
        if renamed {
            if self.read::<String>(&factor).await?.is_some() {
                return Err(IdentityError::invalid(
                    "combination of mount and alias name is already in use",
                ));
            }
            change.expect(factor.clone(), None);
            change.delete(factor_key(&old.mount_accessor, &old.name));
        }
        let record = &mut entity.record;
        record.aliases.retain(|known| known.id != old.id);
        let elsewhere = patch
            .entity_id
            .as_ref()
            .filter(|target| **target != record.id);
        if let Some(target) = elsewhere {
            change.entity(&entity)?;
            entity = self
                .load_entity(target)
                .await?
                .ok_or_else(|| IdentityError::invalid("invalid canonical ID"))?;
        }
        let record = &mut entity.record;
        if record.alias_at(&alias.mount_accessor).is_some() {
            return Err(IdentityError::invalid(
                "Alias cannot be updated as the entity already has an alias for the given 'mount_accessor' ",
            ));
        }
        change.put(factor, &record.id)?;
        change.put(alias_key(&alias.id), &record.id)?;
        record.aliases.push(alias.clone());
        change.entity(&entity)?;
        Ok((change, entity.record.id, alias, false))
    }
}
