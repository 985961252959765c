//! The price table: what AWS charges for a unit, with where each price is from.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::figure::CapacityError;

/// The table that comes with the project.
pub const BUILT_IN: &str = include_str!("../prices.toml");

/// One price.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For one unit, in the table's currency.
    pub usd: f64,
    /// What is counted, such as `GB-month`.
    pub unit: String,
    /// Where it is from.
    pub source: String,
    /// Whether it was read in a price list, or in what is made from one.
    pub verified: bool,
}

/// Prices by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The currency: `USD`.
    pub currency: String,
    /// The region that they hold in.
    pub region: String,
    /// When the sources were read, as `YYYY-MM-DD`.
    pub date: String,
    /// The prices, on demand.
    price: BTreeMap<String, Price>,
}

impl Prices {
    /// Reads a table.
    ///
    /// # Errors
    ///
    /// When it is not one, or a price is not a number from 0 on.
    pub fn parse(text: &str) -> Result<Self, CapacityError> {
        let prices: Self = toml::from_str(text)
            .map_err(|error| CapacityError::new(format!("the price table: {}", error.to_string().trim())))?;
        match prices.price.iter().find(|(_, price)| !(price.usd.is_finite() && price.usd >= 0.0)) {
            Some((name, price)) => {
                Err(CapacityError::new(format!("the price table: {name}: {} is not a price", price.usd)))
            }
            None => Ok(prices),
        }
    }

    /// The price of that name.
    ///
    /// # Errors
    ///
    /// When the table has none, with what to add.
    pub fn get(&self, name: &str) -> Result<&Price, CapacityError> {
        self.price.get(name).ok_or_else(|| {
            CapacityError::new(format!(
                "the price table has no `{name}`; add it to stacks/capacity/prices.toml as [price.\"{name}\"]"
            ))
        })
    }

    /// The same table with one price changed by a factor; nothing changes where it has no such price.
    #[must_use]
    pub fn scaled(&self, name: &str, factor: f64) -> Self {
        let mut prices = self.clone();
        if let Some(price) = prices.price.get_mut(name) {
            price.usd *= factor;
        }
        prices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_says_of_each_price_where_it_is_from() {
        let prices = Prices::parse(BUILT_IN).unwrap();
        assert_eq!((prices.currency.as_str(), prices.region.as_str()), ("USD", "us-east-1"));
        assert!(prices.date.len() == 10 && prices.date.starts_with("20"));
        for (name, price) in &prices.price {
            assert!(price.source.len() > 5 && !price.unit.is_empty() && price.usd > 0.0, "{name}");
            let doubtful = ["differ", "derived:", "lacking"].iter().any(|word| price.source.contains(word));
            assert!(!(price.verified && doubtful), "{name} is not verified");
        }
        assert!(prices.price.values().any(|price| !price.verified), "some are known to be doubtful");
    }

    #[test]
    fn a_wrong_table_is_refused() {
        let table = |price: &str| {
            Prices::parse(&format!(
                "currency = 'USD'\nregion = 'r'\ndate = 'd'\n[price.x]\nunit = 'h'\nsource = 's'\n{price}"
            ))
        };
        assert!(table("verified = true\nusd = 1").is_ok());
        assert!(table("verified = true\nusd = -1").unwrap_err().message.contains("x: -1 is not a price"));
        assert!(table("verified = true\nusd = nan").is_err());
        assert!(table("usd = 1").unwrap_err().message.contains("verified"));
        let missing = table("verified = true\nusd = 1").unwrap().get("y").unwrap_err().message;
        assert!(missing.contains("[price.\"y\"]"), "{missing}");
    }
}
