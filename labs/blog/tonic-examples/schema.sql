-- A small shop. The original, the masked copy and the subset all have this schema, so PostgreSQL itself refuses a copy
-- in which a reference leads nowhere.
CREATE TABLE products (
    id int PRIMARY KEY,
    name text NOT NULL,
    price_cents int NOT NULL
);
CREATE TABLE customers (
    id bigint PRIMARY KEY,
    given_name text NOT NULL,
    family_name text NOT NULL,
    email text NOT NULL UNIQUE,
    phone text NOT NULL,
    birth_date date NOT NULL,
    created_at timestamp NOT NULL,
    referred_by bigint REFERENCES customers DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE addresses (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    kind text NOT NULL CHECK (kind IN ('home', 'delivery')),
    street text NOT NULL,
    city text NOT NULL,
    postcode text NOT NULL
);
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    placed_at timestamp NOT NULL,
    status text NOT NULL
);
CREATE TABLE order_lines (
    order_id bigint NOT NULL REFERENCES orders,
    line int NOT NULL,
    product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL,
    price_cents int NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE TABLE support_notes (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    written_at timestamp NOT NULL,
    body text NOT NULL
);
-- It knows nothing but addresses: what joins it to customers is lower(email).
CREATE TABLE newsletter (
    email text PRIMARY KEY,
    subscribed_at timestamp NOT NULL
);
