-- The ledger's tables. A row is what the newest version of its entity says; a deleted row stays, with its version, so
-- that an older event cannot bring it back. A deletion may come before what it deletes: then the content is absent.

CREATE TABLE orders_ops (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    deleted boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    customer_id uuid,
    status text,
    currency char(3),
    total_cents bigint CHECK (total_cents >= 0),
    CHECK (deleted OR num_nulls(customer_id, status, currency, total_cents) = 0)
);

CREATE TABLE shipments_ops (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    deleted boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    order_id uuid,
    carrier text,
    status text,
    CHECK (deleted OR num_nulls(order_id, carrier, status) = 0)
);

CREATE TABLE shipment_events_ops (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    deleted boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    shipment_id uuid,
    kind text,
    location text,
    CHECK (deleted OR num_nulls(shipment_id, kind, location) = 0)
);

CREATE TABLE invoices_ops (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    deleted boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    order_id uuid,
    number text UNIQUE,
    status text,
    currency char(3),
    amount_cents bigint CHECK (amount_cents >= 0),
    CHECK (deleted OR num_nulls(order_id, number, status, currency, amount_cents) = 0)
);

CREATE TABLE invoice_items_ops (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 1),
    deleted boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    invoice_id uuid,
    sku text,
    quantity integer CHECK (quantity >= 1),
    unit_price_cents bigint CHECK (unit_price_cents >= 0),
    CHECK (deleted OR num_nulls(invoice_id, sku, quantity, unit_price_cents) = 0)
);

-- Which events have had their effect. An event counts once, however often it comes.
CREATE TABLE applied_events (
    event_id bytea PRIMARY KEY CHECK (octet_length(event_id) = 12),
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX applied_events_by_time ON applied_events USING brin (applied_at);

-- What each chunk did, written in the chunk's own transaction. One row a chunk and entity: a running total would be a
-- row that all writers wait for.
CREATE TABLE chunk_totals (
    chunk_id uuid NOT NULL,
    entity text NOT NULL,
    upserts integer NOT NULL CHECK (upserts >= 0),
    deletes integer NOT NULL CHECK (deletes >= 0),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chunk_id, entity)
);

CREATE VIEW totals AS
SELECT entity, sum(upserts)::bigint AS upserts, sum(deletes)::bigint AS deletes, count(*) AS chunks
FROM chunk_totals
GROUP BY entity;
