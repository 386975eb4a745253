use super::*;
use crate::load::summary::tests::outcome;

fn runs(labels: &[&str]) -> Vec<Summary> {
    labels.iter().map(|label| Summary::new(label, &outcome(5000))).collect()
}

fn report(runs: &[Summary]) -> Report<'_> {
    Report { title: "Load & <more>", subtitle: "64 connections", runs }
}

#[test]
fn picture_has_a_line_per_run_in_each_panel_and_every_figure() {
    let runs = runs(&["peer", "Edgate"]);
    let svg = report(&runs).svg();
    assert_eq!(svg.matches("<polyline").count(), 4);
    for colour in &COLOURS[..2] {
        assert!(svg.contains(colour));
    }
    assert!(svg.contains(&time(runs[0].latency_us.p99_9)) && svg.contains("99.9 %"));
    assert!(svg.contains("processor time per decision"));
}

#[test]
fn text_cannot_break_out_of_the_markup() {
    let runs = runs(&["a<script>\"&"]);
    for page in [report(&runs).svg(), report(&runs).html()] {
        assert!(page.contains("Load &amp; &lt;more&gt;"));
        assert!(page.contains("a&lt;script&gt;") && !page.contains("<script"));
    }
}

#[test]
fn every_coordinate_is_a_number_even_for_an_empty_run() {
    for answers in [0, 1, 2] {
        let runs = [Summary::new("empty", &outcome(answers))];
        let svg = report(&runs).svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{answers} answers: {svg}");
    }
}

#[test]
fn errors_stand_out() {
    let mut runs = runs(&["run"]);
    assert!(!report(&runs).svg().contains(ALARM));
    runs[0].lost = 3;
    assert!(report(&runs).svg().contains(ALARM));
}

#[test]
fn file_name_decides_the_form() {
    let folder = tempfile::tempdir().unwrap();
    let runs = runs(&["run"]);
    for (name, start) in [("r.html", "<!doctype html>"), ("r.svg", "<svg ")] {
        let path = folder.path().join(name);
        report(&runs).write(&path).unwrap();
        assert!(fs::read_to_string(path).unwrap().starts_with(start));
    }
}
