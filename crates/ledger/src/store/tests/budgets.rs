use alloy_primitives::U256;

use super::*;
use crate::{BudgetKey, BudgetUse};

fn key() -> BudgetKey {
    BudgetKey {
        agent: "spiffe://example.org/agent".into(),
        capability: "payments.transfer".into(),
        window: 3600,
    }
}

fn count(log: &Log, amount: u64) -> BudgetUse {
    let amount = Some(U256::from(amount));
    let (hold, ()) = log
        .budgets()
        .with(&key(), NOW / 1000, |_| (amount, ()))
        .unwrap();
    hold.unwrap().into_use()
}

fn spending(budget: BudgetUse) -> Entry {
    Entry::Allow(Box::new(Decision {
        budget: Some(budget),
        ..*decision()
    }))
}

#[tokio::test]
async fn budgets_are_counted_again_from_the_records_after_a_restart() {
    let place = place();
    let log = open(&place.path);
    for amount in [5, 7, 11] {
        let budget = count(&log, amount);
        add(&log, spending(budget)).await;
    }
    log.close();
    let report = assert_good(&place.path);
    assert_eq!((report.budget_uses, report.budget_lost), (3, 0));
    let again = open(&place.path);
    let totals = again.budgets().totals(&key(), NOW / 1000).unwrap();
    assert_eq!((totals.calls, totals.spent), (3, U256::from(23)));
}

#[tokio::test]
async fn records_in_another_order_than_their_counts_still_add_up() {
    let place = place();
    let log = open(&place.path);
    let first = count(&log, 5);
    let second = count(&log, 7);
    add(&log, spending(second)).await;
    add(&log, spending(first)).await;
    log.close();
    assert_good(&place.path);
}

#[tokio::test]
async fn what_a_late_record_counted_stays_counted_and_recorded() {
    let place = place();
    let mut options = options();
    options.reservation_timeout = Duration::from_millis(20);
    let log = open_with(&place.path, options).unwrap();
    let slow = log.reserve().unwrap();
    let budget = count(&log, 5);
    add(&log, denial()).await;
    assert!(log.append(slow, spending(budget)).await.is_err());
    log.close();
    let report = assert_good(&place.path);
    assert_eq!((report.budget_uses, report.budget_lost), (1, 0));
}

#[tokio::test]
async fn a_count_that_was_lost_with_its_process_is_reported_and_never_given_back() {
    let place = place();
    let log = open(&place.path);
    let lost = count(&log, 5);
    let budget = count(&log, 7);
    add(&log, spending(budget)).await;
    drop(lost);
    log.close();
    let report = assert_good(&place.path);
    assert_eq!((report.budget_uses, report.budget_lost), (1, 1));
    let totals = open(&place.path)
        .budgets()
        .totals(&key(), NOW / 1000)
        .unwrap();
    assert_eq!((totals.calls, totals.spent), (2, U256::from(12)));
}

#[tokio::test]
async fn totals_that_do_not_add_up_are_found() {
    for (change, problem) in [
        ((1, 4), "its budget had 5 spent"),
        ((0, 5), "counts call 0 of its budget again"),
        ((2, 4), "its budget had more spent than it says"),
    ] {
        let place = place();
        let log = open(&place.path);
        let budget = count(&log, 5);
        add(&log, spending(budget.clone())).await;
        let (calls, spent) = change;
        let wrong = BudgetUse {
            calls,
            spent: U256::from(spent),
            ..budget
        };
        add(&log, spending(wrong)).await;
        log.close();
        let findings = verify(&place.path).findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].first, findings[0].last), (2, 2));
        assert!(findings[0].problem.starts_with(problem), "{findings:?}");
    }
}
