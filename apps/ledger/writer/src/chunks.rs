//! Which records are written together, and which only after others.

use std::collections::HashMap;

use worker_kit::kafka_event::Delivered;

/// Chunks that are written one after the other. Lanes are written at the same time. Numbers are positions among
/// the records.
pub type Lane = Vec<Vec<usize>>;

/// Divides records into lanes of chunks, so that records of one key are never written at the same time: they are in
/// one chunk, or, where they are more than a chunk takes, in chunks of one lane, in order. Records without a key
/// have no order.
#[must_use]
pub fn plan(records: &[Delivered], chunk_records: usize) -> Vec<Lane> {
    let chunk_records = chunk_records.max(1);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<&[u8], usize> = HashMap::new();
    for (position, record) in records.iter().enumerate() {
        match record.key.as_deref() {
            Some(key) => {
                let group = *group_of.entry(key).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                if let Some(group) = groups.get_mut(group) {
                    group.push(position);
                }
            }
            None => groups.push(vec![position]),
        }
    }
    let mut lanes: Vec<Lane> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for group in groups {
        if group.len() > chunk_records {
            lanes.push(group.chunks(chunk_records).map(<[usize]>::to_vec).collect());
            continue;
        }
        if open.len() + group.len() > chunk_records {
            lanes.push(vec![std::mem::take(&mut open)]);
        }
        open.extend(group);
    }
    if !open.is_empty() {
        lanes.push(vec![open]);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use worker_kit::batch::Origin;

    use super::*;

    fn records(keys: &[Option<u8>]) -> Vec<Delivered> {
        keys.iter()
            .zip(0..)
            .map(|(key, offset)| Delivered {
                topic_partition: "t-0".to_owned(),
                origin: Origin { partition: 0, offset, timestamp_ms: None },
                key: key.map(|key| vec![key]),
                payload: None,
            })
            .collect()
    }

    proptest! {
        /// Every record is in one chunk, no chunk is too large, and a key's records are in one lane, in order.
        #[test]
        fn no_key_is_in_two_lanes(keys in proptest::collection::vec(proptest::option::weighted(0.9, 0u8..12), 0..200), size in 1usize..40) {
            let records = records(&keys);
            let lanes = plan(&records, size);
            let mut seen: Vec<usize> = lanes.iter().flatten().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..keys.len()).collect::<Vec<_>>());
            let mut lane_of: BTreeMap<u8, usize> = BTreeMap::new();
            let mut last: BTreeMap<u8, usize> = BTreeMap::new();
            for (number, lane) in lanes.iter().enumerate() {
                for chunk in lane {
                    prop_assert!((1..=size).contains(&chunk.len()));
                    for position in chunk {
                        if let Some(key) = keys[*position] {
                            prop_assert_eq!(*lane_of.entry(key).or_insert(number), number);
                            prop_assert!(last.insert(key, *position).is_none_or(|before| before < *position));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_are_filled() {
        let keys: Vec<_> = (0..100).map(|key| Some(key as u8)).collect();
        let sizes: Vec<_> = plan(&records(&keys), 30).iter().map(|lane| lane[0].len()).collect();
        assert_eq!(sizes, [30, 30, 30, 10]);
    }
}
