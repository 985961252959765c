//! Traffic: a mix of changes as an order system makes them, and what a transport does to it. Repeatable by a seed.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::{
    entity::{Data, Entity, Invoice, InvoiceItem, Order, Shipment, ShipmentEvent},
    envelope::{Change, Envelope},
    identifiers::row_id,
};

/// Rows that are remembered, to be changed and deleted, of each entity.
const REMEMBERED: usize = 1_000;

/// The share of changes that go to a row that is there, where the mix gives no deletion.
const UPDATES: f64 = 0.4;

/// Chance that a seed repeats: SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..1.
    pub fn share(&mut self) -> f64 {
        (self.any() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.any() % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or_default()
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.get(self.below(choices.len())).copied().unwrap_or_default()
    }

    fn id(&mut self, now_ms: i64) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.any().to_be_bytes());
        random[8..].copy_from_slice(&self.any().to_be_bytes()[..2]);
        row_id(u64::try_from(now_ms).unwrap_or_default(), random)
    }
}

/// Shares of the traffic. Orders are .45 of it, shipments .20, their events .25 and invoices .10, each new invoice with
/// one to five items.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix {
    /// The share of deletions, 0 to 1.
    pub deletes: f64,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    id: Uuid,
    parent: Option<Uuid>,
    version: i64,
}

/// Makes changes.
#[derive(Debug)]
pub struct Traffic {
    chance: Chance,
    mix: Mix,
    /// Rows that are there, by entity in the order of [`Entity::ALL`].
    rows: [VecDeque<Row>; 5],
    invoices: u64,
    series: u64,
}

impl Traffic {
    /// Traffic of that mix. The same seed and times give the same changes.
    #[must_use]
    pub fn new(seed: u64, mix: Mix) -> Self {
        let mut chance = Chance::new(seed);
        let series = chance.any();
        Self { chance, mix, rows: Default::default(), invoices: 0, series }
    }

    /// The next change, or a new invoice with its items.
    pub fn next(&mut self, now_ms: i64) -> Vec<Envelope> {
        let entity = match self.chance.share() {
            share if share < 0.45 => Entity::Order,
            share if share < 0.65 => Entity::Shipment,
            share if share < 0.90 => Entity::ShipmentEvent,
            _ => Entity::Invoice,
        };
        let fate = self.chance.share();
        if fate < self.mix.deletes
            && let Some(row) = self.take(entity)
        {
            let change = Change::Delete { entity, id: row.id, parent: row.parent };
            return vec![Envelope::new(row.version + 1, now_ms, change)];
        }
        // An event of a shipment is never changed.
        if entity != Entity::ShipmentEvent
            && fate < self.mix.deletes + (1.0 - self.mix.deletes) * UPDATES
            && let Some(mut row) = self.take(entity)
        {
            row.version += 1;
            let envelope = self.upsert(entity, row, now_ms);
            self.remember(entity, row);
            return vec![envelope];
        }
        let row = self.made(entity, now_ms);
        let mut envelopes = vec![self.upsert(entity, row, now_ms)];
        if entity == Entity::Invoice {
            for _ in 0..=self.chance.below(5) {
                let item = Row { id: self.chance.id(now_ms), parent: Some(row.id), version: 1 };
                envelopes.push(self.upsert(Entity::InvoiceItem, item, now_ms));
            }
        }
        envelopes
    }

    fn made(&mut self, entity: Entity, now_ms: i64) -> Row {
        let parent = (entity == Entity::ShipmentEvent).then(|| self.some_id(Entity::Shipment, now_ms));
        let row = Row { id: self.chance.id(now_ms), parent, version: 1 };
        self.remember(entity, row);
        row
    }

    fn upsert(&mut self, entity: Entity, row: Row, now_ms: i64) -> Envelope {
        let cents = i64::try_from(self.chance.below(1_000_000)).unwrap_or_default();
        let data = match entity {
            Entity::Order => Data::Order(Order {
                id: row.id,
                customer_id: self.chance.id(now_ms),
                status: self.chance.one_of(&["placed", "paid", "packed", "closed"]).to_owned(),
                currency: self.chance.one_of(&["EUR", "USD", "CHF"]).to_owned(),
                total_cents: cents,
            }),
            Entity::Shipment => Data::Shipment(Shipment {
                id: row.id,
                order_id: self.some_id(Entity::Order, now_ms),
                carrier: self.chance.one_of(&["post", "rail", "sea"]).to_owned(),
                status: self.chance.one_of(&["packed", "sent", "delivered"]).to_owned(),
            }),
            Entity::ShipmentEvent => Data::ShipmentEvent(ShipmentEvent {
                id: row.id,
                shipment_id: row.parent.unwrap_or(row.id),
                kind: self.chance.one_of(&["scanned", "loaded", "delayed", "delivered"]).to_owned(),
                location: self.chance.one_of(&["Basel", "Rotterdam", "Genoa", "Hamburg"]).to_owned(),
            }),
            Entity::Invoice => {
                self.invoices += 1;
                Data::Invoice(Invoice {
                    id: row.id,
                    order_id: self.some_id(Entity::Order, now_ms),
                    number: format!("{:016x}-{}", self.series, self.invoices),
                    status: self.chance.one_of(&["open", "paid"]).to_owned(),
                    currency: self.chance.one_of(&["EUR", "USD", "CHF"]).to_owned(),
                    amount_cents: cents,
                })
            }
            Entity::InvoiceItem => Data::InvoiceItem(InvoiceItem {
                id: row.id,
                invoice_id: row.parent.unwrap_or(row.id),
                sku: format!("sku-{}", self.chance.below(10_000)),
                quantity: i32::try_from(1 + self.chance.below(20)).unwrap_or(1),
                unit_price_cents: cents,
            }),
        };
        Envelope::new(row.version, now_ms, Change::Upsert(data))
    }

    fn some_id(&mut self, entity: Entity, now_ms: i64) -> Uuid {
        let count = self.rows[entity as usize].len();
        let position = self.chance.below(count);
        match self.rows[entity as usize].get(position) {
            Some(row) => row.id,
            // A parent that nobody has seen yet: it may be under way.
            None => self.chance.id(now_ms),
        }
    }

    fn take(&mut self, entity: Entity) -> Option<Row> {
        let position = self.chance.below(self.rows[entity as usize].len());
        self.rows[entity as usize].swap_remove_back(position)
    }

    fn remember(&mut self, entity: Entity, row: Row) {
        let rows = &mut self.rows[entity as usize];
        if rows.len() == REMEMBERED {
            rows.pop_front();
        }
        rows.push_back(row);
    }
}

/// What a transport, and careless producers, do to records.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disorder {
    /// The share of records that come twice.
    pub duplicates: f64,
    /// The share of records that come after records that were made later.
    pub out_of_order: f64,
    /// The share of records that have a broken neighbour.
    pub malformed: f64,
}

/// Brings disorder into records.
#[derive(Debug)]
pub struct Disturber<T> {
    chance: Chance,
    disorder: Disorder,
    late: Vec<(usize, T)>,
}

impl<T: Clone> Disturber<T> {
    /// That much disorder.
    #[must_use]
    pub fn new(seed: u64, disorder: Disorder) -> Self {
        Self { chance: Chance::new(seed), disorder, late: Vec::new() }
    }

    /// Takes a record and gives those that are due, itself among them unless it is late. Late ones come within
    /// the next 50.
    pub fn push(&mut self, record: T) -> Vec<T> {
        let mut due = Vec::with_capacity(2);
        if self.chance.share() < self.disorder.duplicates {
            let after = 1 + self.chance.below(50);
            self.late.push((after, record.clone()));
        }
        if self.chance.share() < self.disorder.out_of_order {
            let after = 1 + self.chance.below(50);
            self.late.push((after, record));
        } else {
            due.push(record);
        }
        for (after, _) in &mut self.late {
            *after -= 1;
        }
        due.extend(self.late.extract_if(.., |(after, _)| *after == 0).map(|(_, record)| record));
        due
    }

    /// Whether the record that was pushed last gets a broken neighbour; which one, by its number.
    pub fn breaks(&mut self) -> Option<usize> {
        (self.chance.share() < self.disorder.malformed).then(|| self.chance.below(BROKEN.len()))
    }

    /// All that is still late.
    pub fn finish(&mut self) -> Vec<T> {
        self.late.drain(..).map(|(_, record)| record).collect()
    }
}

/// Records that nobody can read: no JSON, JSON that is no envelope, an unknown version, an unknown entity, a
/// field out of its bounds.
pub const BROKEN: [&[u8]; 5] = [
    b"\xff\xfe not json",
    b"{\"hello\":\"world\"}",
    b"{\"schema_version\":99,\"entity\":\"orders_ops\"}",
    b"{\"schema_version\":1,\"entity\":\"payments_ops\",\"operation\":\"delete\",\"version\":1,\"occurred_at\":\"2026-01-01T00:00:00Z\",\"data\":{}}",
    b"{\"schema_version\":1,\"entity\":\"orders_ops\",\"operation\":\"delete\",\"version\":-1,\"occurred_at\":\"2026-01-01T00:00:00Z\",\"data\":{\"id\":\"01890a5d-ac96-774b-bcce-b302099a8057\"}}",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_mix_is_the_ledgers() {
        let mut traffic = Traffic::new(7, Mix { deletes: 0.09 });
        let mut counts: BTreeMap<Entity, f64> = BTreeMap::new();
        let (mut deletes, mut invoices) = (0.0, 0.0);
        for step in 0..20_000 {
            let envelopes = traffic.next(1_700_000_000_000 + step);
            let first = envelopes.first().unwrap();
            *counts.entry(first.change.entity()).or_default() += 1.0 / 20_000.0;
            if matches!(first.change, Change::Delete { .. }) {
                deletes += 1.0 / 20_000.0;
            }
            if envelopes.len() > 1 {
                invoices += 1.0;
                assert!((2..=6).contains(&envelopes.len()));
                let keys: Vec<_> = envelopes.iter().map(Envelope::key).collect();
                assert!(keys.iter().all(|key| *key == keys[0]), "an invoice and its items have one order");
            }
        }
        for (entity, share) in [
            (Entity::Order, 0.45),
            (Entity::Shipment, 0.20),
            (Entity::ShipmentEvent, 0.25),
            (Entity::Invoice, 0.10),
        ] {
            assert!((counts[&entity] - share).abs() < 0.02, "{counts:?}");
        }
        assert!((deletes - 0.09_f64).abs() < 0.02, "{deletes}");
        assert!(invoices > 500.0);
    }

    proptest! {
        /// A seed repeats its traffic, and versions of a row grow one by one.
        #[test]
        fn traffic_repeats_and_versions_grow(seed in any::<u64>()) {
            let run = || {
                let mut traffic = Traffic::new(seed, Mix { deletes: 0.1 });
                (0..200).flat_map(|step| traffic.next(1_700_000_000_000 + step)).collect::<Vec<_>>()
            };
            let envelopes = run();
            prop_assert_eq!(&envelopes, &run());
            let mut versions: BTreeMap<Uuid, i64> = BTreeMap::new();
            for envelope in envelopes {
                let version = versions.entry(envelope.change.id()).or_default();
                prop_assert_eq!(envelope.version, *version + 1);
                *version = envelope.version;
            }
        }

        /// Disorder loses nothing: every record comes, some twice.
        #[test]
        fn disorder_loses_nothing(seed in any::<u64>(), count in 1usize..400, share in 0.0f64..0.5) {
            let disorder = Disorder { duplicates: share, out_of_order: share, malformed: 0.0 };
            let mut disturber = Disturber::new(seed, disorder);
            let mut records: Vec<usize> = (0..count).flat_map(|record| disturber.push(record)).collect();
            records.extend(disturber.finish());
            records.sort_unstable();
            records.dedup();
            prop_assert_eq!(records, (0..count).collect::<Vec<_>>());
            prop_assert_eq!(disturber.breaks(), None);
        }
    }

    #[test]
    fn what_is_broken_is_refused_each_for_its_own_reason() {
        let causes: Vec<_> = BROKEN.iter().map(|bytes| Envelope::parse(bytes).unwrap_err().cause()).collect();
        assert_eq!(causes, ["malformed", "malformed", "unknown_version", "unknown_entity", "invalid"]);
    }
}
