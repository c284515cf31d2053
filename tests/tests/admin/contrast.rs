//! The dashboard can be read in both of its colour schemes.

use rstest::rstest;
use sni_router_tests::raw::hello;
use sni_router_tests::rig::{HOST, Pair};
use sni_router_tests::topology::Family;

use super::Served;
use super::devtools::Page;

/// Contrast of every text that is shown, as WCAG 2 defines it (1.4.3, level AA, of small text).
#[rstest]
#[case::light("light")]
#[case::dark("dark")]
fn text_of_the_dashboard_has_contrast(#[case] scheme: &str) {
    let served = Served::start();
    let endpoint = served.lab.listen(0);
    let client = served.lab.connect(Family::V4);
    let _pair = Pair::greet(client, &hello(HOST), &endpoint).answered();
    let mut page = Page::open(&served);
    page.prefer(scheme);
    let texts = page.evaluate(CONTRASTS);
    let texts = texts.as_array().expect("a list");
    assert!(texts.len() > 50, "{texts:?}");
    let mut is_coloured = [false; 3];
    for text in texts {
        let ratio = text["ratio"].as_f64().expect("a number");
        assert!(ratio >= 4.5, "{text}");
        for (seen, class) in is_coloured.iter_mut().zip(["good", "bad", "warn"]) {
            *seen |= text["class"] == class;
        }
        let back = text["back"].as_f64().expect("a luminance");
        assert_eq!(back < 0.2, scheme == "dark", "{text}");
    }
    assert_eq!(is_coloured, [true; 3], "of the colours that say something");
}

/// Waits until the page has been filled, makes each state's colour appear, and gives each text with its
/// contrast and the luminance behind it.
const CONTRASTS: &str = r##"(async () => {
  const state = () => document.getElementById("state")?.textContent;
  while (state() !== "live") await new Promise((done) => setTimeout(done, 50));
  const cells = document.querySelectorAll("#endpoints tbody td");
  for (const [index, kind] of ["good", "bad", "warn"].entries()) cells[index].className = kind;
  const channels = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const luminance = ({ rgb }) => {
    const [red, green, blue] = rgb.map((it) => it / 255)
      .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.alpha === 1) return luminance(colour);
      if (colour.alpha !== 0) throw new Error("a colour that shines through");
    }
    throw new Error("no background");
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility()) continue;
    const [front, back] = [luminance(channels(getComputedStyle(element).color)), behind(element)];
    const [dark, bright] = [Math.min(front, back), Math.max(front, back)];
    found.push({ text, class: element.className, back, ratio: (bright + 0.05) / (dark + 0.05) });
  }
  return found;
})()"##;
