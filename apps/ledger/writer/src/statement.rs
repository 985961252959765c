//! The one statement that writes a chunk. A statement is a transaction of its own: all of the chunk takes effect or
//! nothing, in one round trip, with no `BEGIN` that a proxy would have to remember.

use ledger_events::{Change, Data, Entity, Envelope};
use sqlx::{
    AssertSqlSafe, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use crate::merge::Merged;

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uuid,
    Text,
    Big,
    Integer,
}

impl Kind {
    fn array(self) -> &'static str {
        match self {
            Kind::Uuid => "uuid[]",
            Kind::Text => "text[]",
            Kind::Big => "bigint[]",
            Kind::Integer => "integer[]",
        }
    }
}

/// The columns of an entity's content, in order.
fn columns(entity: Entity) -> &'static [(&'static str, Kind)] {
    match entity {
        Entity::Order => &[
            ("customer_id", Kind::Uuid),
            ("status", Kind::Text),
            ("currency", Kind::Text),
            ("total_cents", Kind::Big),
        ],
        Entity::Shipment => &[("order_id", Kind::Uuid), ("carrier", Kind::Text), ("status", Kind::Text)],
        Entity::ShipmentEvent => {
            &[("shipment_id", Kind::Uuid), ("kind", Kind::Text), ("location", Kind::Text)]
        }
        Entity::Invoice => &[
            ("order_id", Kind::Uuid),
            ("number", Kind::Text),
            ("status", Kind::Text),
            ("currency", Kind::Text),
            ("amount_cents", Kind::Big),
        ],
        Entity::InvoiceItem => &[
            ("invoice_id", Kind::Uuid),
            ("sku", Kind::Text),
            ("quantity", Kind::Integer),
            ("unit_price_cents", Kind::Big),
        ],
    }
}

/// A column's values, one a row; a deletion has none.
enum Values {
    Uuid(Vec<Option<Uuid>>),
    Text(Vec<Option<String>>),
    Big(Vec<Option<i64>>),
    Integer(Vec<Option<i32>>),
}

enum Field<'a> {
    Uuid(Uuid),
    Text(&'a str),
    Big(i64),
    Integer(i32),
}

/// The content of a row, in the order of [`columns`].
fn fields(data: &Data) -> Vec<Field<'_>> {
    match data {
        Data::Order(order) => vec![
            Field::Uuid(order.customer_id),
            Field::Text(&order.status),
            Field::Text(&order.currency),
            Field::Big(order.total_cents),
        ],
        Data::Shipment(shipment) => vec![
            Field::Uuid(shipment.order_id),
            Field::Text(&shipment.carrier),
            Field::Text(&shipment.status),
        ],
        Data::ShipmentEvent(event) => {
            vec![Field::Uuid(event.shipment_id), Field::Text(&event.kind), Field::Text(&event.location)]
        }
        Data::Invoice(invoice) => vec![
            Field::Uuid(invoice.order_id),
            Field::Text(&invoice.number),
            Field::Text(&invoice.status),
            Field::Text(&invoice.currency),
            Field::Big(invoice.amount_cents),
        ],
        Data::InvoiceItem(item) => vec![
            Field::Uuid(item.invoice_id),
            Field::Text(&item.sku),
            Field::Integer(item.quantity),
            Field::Big(item.unit_price_cents),
        ],
    }
}

/// The statement for a chunk with rows of these entities, in the order of [`Entity::ALL`]. It answers one row: the
/// ids of the events that were new, and the ids of the rows that were taken.
///
/// An upsert takes a row only if its version is newer, so that neither a repetition nor a late event changes anything.
/// A deletion keeps the content. What is counted are the events that were not counted before.
#[must_use]
pub fn text(entities: &[Entity]) -> String {
    let mut text = String::from(
        "WITH incoming AS (\n  SELECT event_id, entity, deleted FROM unnest($1::bytea[], $2::text[], $3::boolean[]) AS t(event_id, entity, deleted)\n), \
         journal AS (\n  INSERT INTO applied_events (event_id) SELECT event_id FROM incoming ON CONFLICT DO NOTHING RETURNING event_id\n), \
         counted AS (\n  INSERT INTO chunk_totals (chunk_id, entity, upserts, deletes)\n  SELECT $4::uuid, entity, count(*) FILTER (WHERE NOT deleted), count(*) FILTER (WHERE deleted)\n  FROM incoming JOIN journal USING (event_id) GROUP BY entity\n)",
    );
    let mut parameter = 4;
    let mut next = |array: &str| {
        parameter += 1;
        format!("${parameter}::{array}")
    };
    for entity in entities {
        let table = entity.as_str();
        let columns = columns(*entity);
        let names: String = columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let heads = ["uuid[]", "bigint[]", "boolean[]", "bigint[]"].map(&mut next).join(", ");
        let arrays: String = columns.iter().map(|(_, kind)| format!(", {}", next(kind.array()))).collect();
        let set: String = columns
            .iter()
            .map(|(name, _)| {
                format!(",\n    {name} = CASE WHEN excluded.deleted THEN t.{name} ELSE excluded.{name} END")
            })
            .collect();
        text.push_str(&format!(
            ", \"{table}_taken\" AS (\n  INSERT INTO {table} AS t (id, version, deleted, occurred_at{names})\n  \
             SELECT id, version, deleted, to_timestamp(occurred_ms / 1000.0){names}\n  \
             FROM unnest({heads}{arrays}) AS u(id, version, deleted, occurred_ms{names})\n  \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, deleted = excluded.deleted,\n    \
             occurred_at = excluded.occurred_at, written_at = now(){set}\n  \
             WHERE excluded.version > t.version RETURNING t.id\n)"
        ));
    }
    let taken: Vec<String> =
        entities.iter().map(|entity| format!("SELECT id FROM \"{}_taken\"", entity.as_str())).collect();
    text.push_str(&format!(
        "\nSELECT ARRAY(SELECT event_id FROM journal) AS new_events, ARRAY({}) AS taken_rows",
        taken.join(" UNION ALL ")
    ));
    text
}

/// The entities of a chunk's rows.
#[must_use]
pub fn entities(merged: &Merged<'_>) -> Vec<Entity> {
    let mut entities: Vec<Entity> = merged.rows.iter().map(|row| row.change.entity()).collect();
    // The rows are ordered by entity.
    entities.dedup();
    entities
}

/// The statement with its values.
pub fn query<'q>(text: &'q str, merged: &Merged<'_>, chunk: Uuid) -> Query<'q, Postgres, PgArguments> {
    let deleted = |envelope: &&Envelope| matches!(envelope.change, Change::Delete { .. });
    let mut query = sqlx::query(AssertSqlSafe(text))
        .persistent(false)
        .bind(merged.events.iter().map(|event| event.event_id.0.to_vec()).collect::<Vec<_>>())
        .bind(merged.events.iter().map(|event| event.change.entity().as_str()).collect::<Vec<_>>())
        .bind(merged.events.iter().map(deleted).collect::<Vec<_>>())
        .bind(chunk);
    for rows in merged.rows.chunk_by(|a, b| a.change.entity() == b.change.entity()) {
        let Some(first) = rows.first() else { continue };
        query = query
            .bind(rows.iter().map(|row| row.change.id()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
            .bind(rows.iter().map(deleted).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.occurred_ms).collect::<Vec<_>>());
        for values in values(first.change.entity(), rows) {
            query = match values {
                Values::Uuid(values) => query.bind(values),
                Values::Text(values) => query.bind(values),
                Values::Big(values) => query.bind(values),
                Values::Integer(values) => query.bind(values),
            };
        }
    }
    query
}

/// The content of rows of one entity, column by column.
fn values(entity: Entity, rows: &[&Envelope]) -> Vec<Values> {
    let mut values: Vec<Values> = columns(entity)
        .iter()
        .map(|(_, kind)| match kind {
            Kind::Uuid => Values::Uuid(Vec::with_capacity(rows.len())),
            Kind::Text => Values::Text(Vec::with_capacity(rows.len())),
            Kind::Big => Values::Big(Vec::with_capacity(rows.len())),
            Kind::Integer => Values::Integer(Vec::with_capacity(rows.len())),
        })
        .collect();
    for row in rows {
        let fields = match &row.change {
            Change::Upsert(data) => fields(data).into_iter().map(Some).collect(),
            Change::Delete { .. } => columns(entity).iter().map(|_| None).collect::<Vec<_>>(),
        };
        for (column, field) in values.iter_mut().zip(fields) {
            match (column, field) {
                (Values::Uuid(column), Some(Field::Uuid(value))) => column.push(Some(value)),
                (Values::Text(column), Some(Field::Text(value))) => column.push(Some(value.to_owned())),
                (Values::Big(column), Some(Field::Big(value))) => column.push(Some(value)),
                (Values::Integer(column), Some(Field::Integer(value))) => column.push(Some(value)),
                (Values::Uuid(column), _) => column.push(None),
                (Values::Text(column), _) => column.push(None),
                (Values::Big(column), _) => column.push(None),
                (Values::Integer(column), _) => column.push(None),
            }
        }
    }
    values
}

/// What a chunk's statement did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Rows that were inserted or changed.
    pub rows: usize,
    /// Events that had had their effect before.
    pub duplicates: usize,
    /// Events that were new and older than their row: it stayed as it was.
    pub regressions_refused: usize,
}

/// Reads what the statement did.
///
/// # Errors
///
/// When the answer is not the statement's.
pub fn effect(merged: &Merged<'_>, row: &PgRow) -> Result<Effect, sqlx::Error> {
    use sqlx::Row;
    let new_events: Vec<Vec<u8>> = row.try_get("new_events")?;
    let taken: Vec<Uuid> = row.try_get("taken_rows")?;
    let new: std::collections::HashSet<&[u8]> = new_events.iter().map(Vec::as_slice).collect();
    let taken_ids: std::collections::HashSet<Uuid> = taken.iter().copied().collect();
    let refused = merged
        .rows
        .iter()
        .filter(|row| !taken_ids.contains(&row.change.id()) && new.contains(row.event_id.0.as_slice()));
    Ok(Effect {
        rows: taken.len(),
        duplicates: merged.repeated + merged.events.len() - new_events.len(),
        regressions_refused: refused.count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_of_a_chunk_is_as_agreed() {
        insta::assert_snapshot!(text(&[Entity::Order, Entity::InvoiceItem]));
    }

    #[test]
    fn every_parameter_is_used_once() {
        let text = text(&Entity::ALL);
        let count = 4 + Entity::ALL.map(|entity| 4 + columns(entity).len()).iter().sum::<usize>();
        for number in 1..=count {
            assert_eq!(text.matches(&format!("${number}::")).count(), 1, "${number}");
        }
        assert!(!text.contains(&format!("${}", count + 1)));
    }
}
