use super::*;

const A: Lane = Lane(3);
const B: Lane = Lane(0);

/// Everything, in the order in which it goes when nothing happens meanwhile.
fn drained(order: &mut Order, now: u64) -> Vec<u32> {
    let next = || {
        let (place, _) = order.first(now)?;
        order.remove(place);
        Some(place)
    };
    std::iter::from_fn(next).collect()
}

fn filled(uses: &[(u32, Lane, u64)]) -> Order {
    let mut order = Order::default();
    for &(place, lane, now) in uses {
        touch(&mut order, place, lane, now);
    }
    order
}

fn touch(order: &mut Order, place: u32, lane: Lane, now: u64) {
    let last_use = order.next_use(now);
    order.enter(place, lane, last_use);
}

#[test]
fn without_floors_the_least_recently_used_goes_first_whatever_its_lane() {
    let uses = [(4, A, 10), (0, B, 20), (9, A, 30), (2, B, 40), (4, A, 50), (7, A, 50)];
    let mut order = filled(&uses);
    assert_eq!(order.counted().0, 5);
    assert_eq!(drained(&mut order, 60), [0, 9, 2, 4, 7]);
    assert_eq!((order.counted().0, order.first(60)), (0, None));
}

#[test]
fn an_agent_that_is_expected_later_goes_first_until_another_is_away_for_longer() {
    let mut order = filled(&[(1, A, 0), (2, B, 5)]);
    order.set_standing(A, Standing { floor_ms: 10, ..Standing::default() });
    order.set_standing(B, Standing { floor_ms: 30, ..Standing::default() });
    assert_eq!(order.first(6).map(|(place, _)| place), Some(2));
    assert_eq!(order.first(30).map(|(place, _)| place), Some(1), "a tie: the older goes");
    assert_eq!(order.first(31).map(|(place, _)| place), Some(1));
    touch(&mut order, 1, A, 31);
    assert_eq!(drained(&mut order, 32), [2, 1]);
}

#[test]
fn a_class_goes_before_all_times_and_a_bonus_makes_older() {
    let mut order = filled(&[(1, A, 0), (2, B, 50)]);
    order.set_standing(B, Standing { class: 2, ..Standing::default() });
    assert_eq!(drained(&mut order, 60), [2, 1]);
    let mut order = filled(&[(1, A, 0), (2, B, 50)]);
    order.set_standing(B, Standing { bonus_ms: 51, ..Standing::default() });
    assert_eq!(drained(&mut order, 60), [2, 1]);
}

#[test]
fn who_was_used_together_with_another_takes_its_place() {
    let mut order = filled(&[(1, A, 0), (2, A, 1), (3, B, 2), (5, A, 3)]);
    order.succeed(1, 9);
    order.succeed(2, 1);
    order.succeed(3, 3000);
    order.set_aside(5);
    order.succeed(1, 5);
    assert_eq!((order.len, order.n_aside, order.used_at(5)), (3, 0, Some(1)));
    assert_eq!(drained(&mut order, 4), [9, 5, 3000]);
}

#[test]
fn places_come_and_go() {
    let mut order = filled(&[(1, A, 0), (2, A, 0), (3, A, 0)]);
    order.remove(2);
    order.remove(2);
    order.remove(77);
    assert!(!order.contains(2) && order.contains(3));
    assert_eq!(order.lane(A).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(drained(&mut order, 0), [1, 3]);
    touch(&mut order, 2, A, 9);
    assert_eq!((order.used_at(2), drained(&mut order, 9)), (Some(9), vec![2]));
}

#[test]
fn what_was_set_aside_comes_back_where_it_was() {
    let mut order = filled(&[(1, A, 0), (2, A, 1), (3, A, 2), (4, A, 3), (5, B, 9)]);
    for place in [2, 1, 3] {
        order.set_aside(place);
    }
    assert_eq!((order.lane(A).collect(), order.counted()), (vec![4], (5, true)));
    assert_eq!((order.used_at(2), order.lane_of(2)), (Some(1), Some(A)));
    for place in [3, 1, 2, 2, 77] {
        order.restore(place);
    }
    assert_eq!(order.lane(A).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(order.counted(), (5, true));
    order.set_aside(4);
    touch(&mut order, 4, B, 10);
    order.set_aside(3);
    order.remove(3);
    order.restore(3);
    assert_eq!(drained(&mut order, 10), [1, 2, 5, 4]);
    assert_eq!(order.counted(), (0, true));
}

#[test]
fn a_place_that_changes_lanes_keeps_its_last_use() {
    let mut order = filled(&[(1, A, 0), (2, B, 1), (3, A, 2), (4, B, 3), (5, B, 4)]);
    order.set_aside(1);
    for place in [3, 1, 5, 77] {
        order.move_to(place, B);
    }
    order.restore(1);
    assert_eq!(order.lane(B).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((order.lane(A).next(), order.counted()), (None, (5, true)));
}

#[test]
fn what_is_due_was_used_before_in_every_lane() {
    let order = filled(&[(1, A, 0), (2, B, 1), (3, A, 5), (4, B, 6), (5, Lane(9), 9)]);
    assert_eq!(order.due(6), [2, 1, 3]);
    assert!(order.due(0).is_empty());
}
