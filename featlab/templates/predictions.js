// Cards of predictions that fit the filters: a class, and any of the marks that are ticked.

function startPredictions() {
  const cards = [...document.querySelectorAll("#predictions .cards > li")];
  const pick = byId("predictions-class");
  const marks = ["wrong", "unsure", "unusual"].filter((mark) => byId(`predictions-${mark}`));

  function filter() {
    const ticked = marks.filter((mark) => byId(`predictions-${mark}`).checked);
    const filtered = pick.value !== "" || ticked.length > 0;
    for (const fold of document.querySelectorAll("#predictions .fold")) fold.open ||= filtered;
    let shown = 0;
    for (const card of cards) {
      const fits =
        (!pick.value || card.dataset.class === pick.value) &&
        ticked.every((mark) => mark in card.dataset);
      card.hidden = !fits;
      shown += fits;
    }
    byId("predictions-count").textContent = `${counted(shown)} of ${counted(cards.length)} pictures`;
  }

  for (const control of [pick, ...marks.map((mark) => byId(`predictions-${mark}`))]) {
    control.addEventListener("change", filter);
  }
  filter();
  byId("predictions-controls").hidden = false;
}
