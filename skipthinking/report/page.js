const by = id => document.getElementById(id), all = selector => [...document.querySelectorAll(selector)];
function filter() {
  const text = by("find").value.toLowerCase(), test = by("test")?.value ?? "", outcome = by("outcome").value;
  const finished = by("finished").value;
  let count = 0;
  for (const one of all("article")) {
    const fits = !outcome || one.dataset.kind === outcome || one.dataset.marks.split(" ").includes(outcome);
    const ended = !finished || one.dataset.finished === finished;
    one.hidden = !(fits && ended && (!test || one.dataset.test === test) && one.textContent.toLowerCase().includes(text));
    count += !one.hidden;
  }
  const shown = new Set(all(".show:checked").map(box => box.value));
  for (const one of all(".answer")) one.hidden = !shown.has(one.dataset.method);
  by("count").textContent = `${count} examples`;
}
if (by("filter")) {
  by("filter").hidden = false;
  by("filter").addEventListener("input", filter);
  by("filter").addEventListener("submit", event => event.preventDefault());
  filter();
}
addEventListener("beforeprint", () => all("details").forEach(one => { one.open = true; }));
