use super::*;

#[test]
fn a_timeline_holds_any_time_in_few_slots_and_loses_no_count() {
    let mut timeline = Timeline::default();
    let start = 1_795_891_829_500_000_000;
    for n in 0..10_000u64 {
        timeline.add(start + n * 7_000_000_000, if n % 3 == 0 { "accepted" } else { "expired" });
    }
    // The clock went back, and forth for good.
    timeline.add(5, "expired");
    timeline.add(start + 40 * 365 * 86_400 * 1_000_000_000, "expired");
    timeline.finish();
    assert!(timeline.slots.len() as u64 <= timeline::SLOTS_MAX, "{}", timeline.slots.len());
    let counted: u64 = timeline.slots.iter().flat_map(BTreeMap::values).sum();
    assert_eq!(counted, 10_002);
}

#[test]
fn names_that_are_frequent_are_found_among_any_number_of_names() {
    let mut top = Top::default();
    for n in 0..100_000 {
        top.add(&format!("made up {n}"));
        if n % 10 == 0 {
            top.add("frequent");
        }
        if n > 50_000 && n % 5 == 0 {
            top.add("late, but frequent");
        }
    }
    top.finish();
    assert_eq!(top.names.len(), top::NAMES_SHOWN);
    assert_eq!(top.names[0], ("frequent".to_owned(), 10_000), "never the rarest, so never let go");
    assert_eq!(top.names[1].0, "late, but frequent");
    assert!(top.is_lower_bound);
    let counted: u64 = top.names.iter().map(|(_, count)| count).sum();
    assert_eq!(counted + top.others, 100_000 + 10_000 + 9_999);
    let mut few = Top::default();
    few.add("one");
    few.finish();
    assert_eq!((few.names, few.others, few.is_lower_bound), (vec![("one".to_owned(), 1)], 0, false));
}
