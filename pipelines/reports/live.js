(async () => {
  const element = document.getElementById("live-spec");
  if (!element) return;
  const section = document.getElementById("live");
  const chart = document.getElementById("live-chart");
  const drawn = document.getElementById("live-drawn");
  const sliders = document.getElementById("sliders");
  const least = document.getElementById("live-least");
  // The chart measures its place, which must be seen for that.
  drawn.hidden = true;
  chart.hidden = sliders.hidden = false;
  let shown;
  try {
    // `ast`: the page's policy forbids to make functions out of text.
    shown = await vegaEmbed(chart, JSON.parse(element.textContent), {
      ast: true, actions: false, renderer: "svg", tooltip: false,
    });
  } catch (error) {
    drawn.hidden = false;
    chart.hidden = sliders.hidden = true;
    throw error;
  }
  const {view, vgSpec} = shown;
  const find = (marks) => marks.find((mark) => (mark.name || "").startsWith("now_"))
    || marks.map((mark) => find(mark.marks || [])).find(Boolean);
  const data = find(vgSpec.marks).from.data;
  const show = () => {
    for (const output of section.querySelectorAll("output")) {
      const text = view.signal(`${output.htmlFor}_text`);
      output.textContent = text;
      document.getElementById(output.htmlFor).setAttribute("aria-valuetext", text);
    }
    for (const row of view.data(data)) {
      if (row.least_text && least) least.textContent = `${row.candidate}, ${row.total_text}`;
      for (const cell of section.querySelectorAll(`[data-row="${row.id}"]`)) {
        cell.textContent = row[`${cell.dataset.cell}_text`];
      }
    }
  };
  for (const input of sliders.querySelectorAll("input")) {
    view.addSignalListener(`${input.id}_at`, () => view.runAfter(show));
  }
  document.getElementById("sliders-reset").addEventListener("click", () => {
    for (const input of sliders.querySelectorAll("input")) {
      input.value = input.defaultValue;
      input.dispatchEvent(new Event("input"));
    }
  });
  show();
  section.dataset.ready = "true";
})();
