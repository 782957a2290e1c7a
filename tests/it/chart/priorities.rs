//! The PriorityClasses of a release.

use super::{RUNNING, each, helm, kind, render};

/// The classes of a release are its own, an existing one is taken instead, and without any no job asks for one.
#[tokio::test]
async fn priorities_are_classes_of_the_release_or_of_the_cluster() {
    let Some(helm) = helm() else { return };
    let made = async |values: &str| {
        let runner = format!(r#"runner.kubernetes={{"enabled":true{values}}}"#);
        let objects = render(&helm, "job-dashboard", &[runner.as_str(), RUNNING[1]]).await;
        let classes: Vec<(String, i64)> = objects
            .iter()
            .filter(|object| object["kind"] == "PriorityClass")
            .map(|class| {
                assert_eq!(class["preemptionPolicy"], "Never");
                let name = class["metadata"]["name"].as_str().expect("a name");
                (name.to_owned(), class["value"].as_i64().expect("a number"))
            })
            .collect();
        let pod = &kind(&objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
        let args = each(&pod["containers"][0]["args"]);
        let args: Vec<String> = args
            .filter_map(|arg| arg.strip_prefix("--priority-class=").map(str::to_owned))
            .collect();
        (classes, args)
    };
    assert_eq!(made("").await, (vec![], vec![]));
    let (mut classes, args) = made(r#","priorityClasses":{"create":true}"#).await;
    classes.sort();
    let (high, low) = ("demo-job-dashboard-high", "demo-job-dashboard-low");
    assert_eq!(classes, [(high.to_owned(), 1000), (low.to_owned(), -1000)]);
    assert_eq!(args, [format!("high={high}"), format!("low={low}")]);
    let (classes, args) = made(r#","priorityClasses":{"create":true,"high":"urgent"}"#).await;
    assert_eq!(classes, [(low.to_owned(), -1000)]);
    assert_eq!(args, ["high=urgent".to_owned(), format!("low={low}")]);
    let (classes, args) = made(r#","priorityClasses":{"create":false,"low":"idle"}"#).await;
    assert_eq!((classes, args), (vec![], vec!["low=idle".to_owned()]));
}
