//! The five entities of the ledger, typed, with their bounds.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest text of a field, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// An amount of money, in cents, at most: ten billion units.
pub const CENTS_MAX: i64 = 1_000_000_000_000;

/// A kind of row. The names on the wire are those of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entity {
    /// An order.
    #[serde(rename = "orders_ops")]
    Order,
    /// A shipment of an order.
    #[serde(rename = "shipments_ops")]
    Shipment,
    /// Something that happened to a shipment.
    #[serde(rename = "shipment_events_ops")]
    ShipmentEvent,
    /// An invoice of an order.
    #[serde(rename = "invoices_ops")]
    Invoice,
    /// A line of an invoice.
    #[serde(rename = "invoice_items_ops")]
    InvoiceItem,
}

impl Entity {
    /// All of them.
    pub const ALL: [Entity; 5] =
        [Entity::Order, Entity::Shipment, Entity::ShipmentEvent, Entity::Invoice, Entity::InvoiceItem];

    /// The name on the wire, which is the table's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Entity::Order => "orders_ops",
            Entity::Shipment => "shipments_ops",
            Entity::ShipmentEvent => "shipment_events_ops",
            Entity::Invoice => "invoices_ops",
            Entity::InvoiceItem => "invoice_items_ops",
        }
    }

    /// The entity of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|entity| entity.as_str() == name)
    }

    /// The field with the parent's id, of entities whose order is their parent's.
    #[must_use]
    pub fn parent_field(self) -> Option<&'static str> {
        match self {
            Entity::ShipmentEvent => Some("shipment_id"),
            Entity::InvoiceItem => Some("invoice_id"),
            Entity::Order | Entity::Shipment | Entity::Invoice => None,
        }
    }
}

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It gets this content.
    Upsert,
    /// It is marked as deleted; its content stays.
    Delete,
}

impl Operation {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Upsert => "upsert",
            Operation::Delete => "delete",
        }
    }
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its id.
    pub id: Uuid,
    /// Who ordered.
    pub customer_id: Uuid,
    /// Such as `placed` or `paid`.
    pub status: String,
    /// ISO 4217, three capital letters.
    pub currency: String,
    /// The total, in cents.
    pub total_cents: i64,
}

/// A shipment of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shipment {
    /// Its id.
    pub id: Uuid,
    /// The order that is shipped.
    pub order_id: Uuid,
    /// Who carries it.
    pub carrier: String,
    /// Such as `packed` or `delivered`.
    pub status: String,
}

/// Something that happened to a shipment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShipmentEvent {
    /// Its id.
    pub id: Uuid,
    /// The shipment.
    pub shipment_id: Uuid,
    /// Such as `scanned`.
    pub kind: String,
    /// Where.
    pub location: String,
}

/// An invoice of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// Its id.
    pub id: Uuid,
    /// The order.
    pub order_id: Uuid,
    /// The number on the paper. No two invoices have the same, which only the database knows.
    pub number: String,
    /// Such as `open` or `paid`.
    pub status: String,
    /// ISO 4217, three capital letters.
    pub currency: String,
    /// The amount, in cents.
    pub amount_cents: i64,
}

/// A line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceItem {
    /// Its id.
    pub id: Uuid,
    /// The invoice.
    pub invoice_id: Uuid,
    /// What was sold.
    pub sku: String,
    /// How many, from 1.
    pub quantity: i32,
    /// The price of one, in cents.
    pub unit_price_cents: i64,
}

/// A row's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Of an order.
    Order(Order),
    /// Of a shipment.
    Shipment(Shipment),
    /// Of a shipment's event.
    ShipmentEvent(ShipmentEvent),
    /// Of an invoice.
    Invoice(Invoice),
    /// Of an invoice's line.
    InvoiceItem(InvoiceItem),
}

impl Data {
    /// Reads and normalises the content of an entity: text without surrounding white space, statuses, kinds and
    /// carriers in small letters, currencies in capitals.
    ///
    /// # Errors
    ///
    /// Which field is wrong, and how.
    pub fn read(entity: Entity, json: serde_json::Value) -> Result<Self, String> {
        let fail = |error: serde_json::Error| format!("data: {error}");
        Ok(match entity {
            Entity::Order => {
                let mut order: Order = serde_json::from_value(json).map_err(fail)?;
                order.status = word("status", &order.status)?;
                order.currency = currency(&order.currency)?;
                cents("total_cents", order.total_cents)?;
                Data::Order(order)
            }
            Entity::Shipment => {
                let mut shipment: Shipment = serde_json::from_value(json).map_err(fail)?;
                shipment.carrier = word("carrier", &shipment.carrier)?;
                shipment.status = word("status", &shipment.status)?;
                Data::Shipment(shipment)
            }
            Entity::ShipmentEvent => {
                let mut event: ShipmentEvent = serde_json::from_value(json).map_err(fail)?;
                event.kind = word("kind", &event.kind)?;
                event.location = text("location", &event.location)?;
                Data::ShipmentEvent(event)
            }
            Entity::Invoice => {
                let mut invoice: Invoice = serde_json::from_value(json).map_err(fail)?;
                invoice.number = text("number", &invoice.number)?;
                invoice.status = word("status", &invoice.status)?;
                invoice.currency = currency(&invoice.currency)?;
                cents("amount_cents", invoice.amount_cents)?;
                Data::Invoice(invoice)
            }
            Entity::InvoiceItem => {
                let mut item: InvoiceItem = serde_json::from_value(json).map_err(fail)?;
                item.sku = text("sku", &item.sku)?;
                if !(1..=1_000_000).contains(&item.quantity) {
                    return Err(format!("data.quantity: {} is not from 1 to 1000000", item.quantity));
                }
                cents("unit_price_cents", item.unit_price_cents)?;
                Data::InvoiceItem(item)
            }
        })
    }

    /// The content as it goes on the wire.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // Structs of plain fields always serialise.
        match self {
            Data::Order(data) => serde_json::to_value(data),
            Data::Shipment(data) => serde_json::to_value(data),
            Data::ShipmentEvent(data) => serde_json::to_value(data),
            Data::Invoice(data) => serde_json::to_value(data),
            Data::InvoiceItem(data) => serde_json::to_value(data),
        }
        .unwrap_or_default()
    }

    /// Which entity it is.
    #[must_use]
    pub fn entity(&self) -> Entity {
        match self {
            Data::Order(_) => Entity::Order,
            Data::Shipment(_) => Entity::Shipment,
            Data::ShipmentEvent(_) => Entity::ShipmentEvent,
            Data::Invoice(_) => Entity::Invoice,
            Data::InvoiceItem(_) => Entity::InvoiceItem,
        }
    }

    /// The row's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        match self {
            Data::Order(data) => data.id,
            Data::Shipment(data) => data.id,
            Data::ShipmentEvent(data) => data.id,
            Data::Invoice(data) => data.id,
            Data::InvoiceItem(data) => data.id,
        }
    }

    /// The id of the parent whose order the row follows.
    #[must_use]
    pub fn parent(&self) -> Option<Uuid> {
        match self {
            Data::ShipmentEvent(data) => Some(data.shipment_id),
            Data::InvoiceItem(data) => Some(data.invoice_id),
            Data::Order(_) | Data::Shipment(_) | Data::Invoice(_) => None,
        }
    }
}

fn text(field: &str, value: &str) -> Result<String, String> {
    let value = value.trim();
    // PostgreSQL's text holds every character but this one.
    if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.contains('\0') {
        return Err(format!("data.{field}: not a text of 1 to {TEXT_BYTES_MAX} bytes"));
    }
    Ok(value.to_owned())
}

fn word(field: &str, value: &str) -> Result<String, String> {
    let value = text(field, value)?.to_lowercase();
    if value.len() <= TEXT_BYTES_MAX { Ok(value) } else { Err(format!("data.{field}: too long")) }
}

fn currency(value: &str) -> Result<String, String> {
    let value = value.trim().to_ascii_uppercase();
    if value.len() == 3 && value.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(value)
    } else {
        Err("data.currency: not three letters as in ISO 4217".to_owned())
    }
}

fn cents(field: &str, value: i64) -> Result<(), String> {
    if (0..=CENTS_MAX).contains(&value) {
        Ok(())
    } else {
        Err(format!("data.{field}: {value} is not from 0 to {CENTS_MAX}"))
    }
}
