() => {
  // The most bytes of a file by the id of the place that it is given to.
  const LIMITS = JSON.parse('$LIMITS');
  // A picture pasted anywhere goes where a chosen file would go, on the tab that is open.
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    const input = [...document.querySelectorAll(".takes-paste input[type=file]")].find(
      (candidate) => candidate.closest(".takes-paste").offsetParent,
    );
    if (!files?.length || !input) return;
    event.preventDefault();
    const one = new DataTransfer();
    one.items.add(files[0]);
    input.files = one.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  // A file over the limit is never sent; the tab that it was given to says why.
  const checkSize = (event) => {
    const place = event.target.closest?.(".takes-paste");
    const file = (event.dataTransfer ?? event.target).files?.[0];
    if (!place || !(file?.size > LIMITS[place.id])) return;
    event.preventDefault(); // or the browser would open a file that was dropped
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = ""; // so that it can be chosen again
    else event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    place.parentElement.querySelector("button.too-large").click();
  };
  document.addEventListener("change", checkSize, true);
  document.addEventListener("drop", checkSize, true);
  // A picture laid over another: its slider shows more or less of it.
  document.addEventListener("input", (event) => {
    const slider = event.target.closest?.("input.opacity");
    if (!slider) return;
    const figure = slider.closest("figure");
    figure.querySelector(".over").style.opacity = slider.value / 100;
    slider.parentElement.querySelector("output").textContent = `${slider.value} %`;
  });
  // A picture with evidence: + and - or the buttons zoom, the arrow keys or the pointer move it.
  const show = (picture, scale, x, y) => {
    scale = Math.min(Math.max(scale, 1), 8);
    const reach = (scale - 1) / 2; // in widths and heights: further and the picture's edge shows
    const clamp = (share) => Math.min(Math.max(share, -reach), reach);
    Object.assign(picture.dataset, { scale, x: clamp(x), y: clamp(y) });
    picture.firstElementChild.style.transform =
      `translate(${100 * picture.dataset.x}%, ${100 * picture.dataset.y}%) scale(${scale})`;
    picture.classList.toggle("zoomed", scale > 1);
    const level = picture.parentElement.querySelector(".zoom output");
    level.textContent = `${Math.round(100 * scale)} %`;
  };
  const view = ({ dataset }) => [+(dataset.scale ?? 1), +(dataset.x ?? 0), +(dataset.y ?? 0)];
  const zoom = (picture, factor) => {
    const [scale, x, y] = view(picture);
    const larger = Math.min(Math.max(factor ? scale * factor : 1, 1), 8);
    show(picture, larger, (x * larger) / scale, (y * larger) / scale);
  };
  const KEYS = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
  const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".picture")) return;
    const [scale, x, y] = view(event.target);
    if (event.key in KEYS) zoom(event.target, KEYS[event.key]);
    else if (event.key in ARROWS && scale > 1) {
      const [across, down] = ARROWS[event.key];
      show(event.target, scale, x + 0.1 * across, y + 0.1 * down);
    } else return;
    event.preventDefault();
  });
  // A button inside a result: of a picture's zoom, or for one of the page's own buttons.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button[data-zoom], button[data-clicks]");
    if (!button) return;
    if (button.dataset.clicks) document.getElementById(button.dataset.clicks).click();
    else zoom(button.closest("figure").querySelector(".picture"), +button.dataset.zoom);
  });
  document.addEventListener("pointerdown", (event) => {
    const picture = event.target.closest?.(".picture.zoomed");
    if (!picture || event.button) return;
    event.preventDefault();
    const { clientX, clientY, pointerId } = event;
    const [scale, x, y] = view(picture);
    const { width, height } = picture.getBoundingClientRect();
    const move = (to) =>
      show(picture, scale, x + (to.clientX - clientX) / width, y + (to.clientY - clientY) / height);
    picture.setPointerCapture(pointerId);
    picture.addEventListener("pointermove", move);
    picture.addEventListener("lostpointercapture", () =>
      picture.removeEventListener("pointermove", move), { once: true });
  });
  // While the cropping controls are open, a rectangle drawn on the given film is what is kept.
  let rectangles = 0;
  document.addEventListener("pointerdown", (event) => {
    const image = event.target.closest?.("#hand-given .frame img");
    if (!image || event.button || !document.getElementById("hand-crop-left")?.offsetParent) return;
    event.preventDefault();
    const box = image.getBoundingClientRect();
    const place = (at) => [
      Math.min(Math.max((at.clientX - box.left) / box.width, 0), 1),
      Math.min(Math.max((at.clientY - box.top) / box.height, 0), 1),
    ];
    const [startX, startY] = place(event);
    const mark = image.parentElement.appendChild(document.createElement("i"));
    let cuts;
    const draw = (at) => {
      const [x, y] = place(at);
      cuts = [Math.min(startX, x), Math.min(startY, y), 1 - Math.max(startX, x), 1 - Math.max(startY, y)];
      mark.style.inset = [cuts[1], cuts[2], cuts[3], cuts[0]].map((cut) => `${100 * cut}%`).join(" ");
    };
    draw(event);
    image.setPointerCapture(event.pointerId);
    image.addEventListener("pointermove", draw);
    image.addEventListener("lostpointercapture", () => {
      image.removeEventListener("pointermove", draw);
      mark.remove();
      if (cuts[0] + cuts[2] > 0.95 || cuts[1] + cuts[3] > 0.95) return; // a click, not a rectangle
      const field = document.querySelector("#hand-drawn :is(textarea, input)");
      // Counted, or the same rectangle drawn again would be no change.
      field.value = [...cuts.map((cut) => cut.toFixed(4)), ++rectangles].join(" ");
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }, { once: true });
  });
  // A result that is late is not that of the film which was given or framed meanwhile.
  const turnOf = (place) => document.querySelector(`${place} [data-turn]`)?.dataset.turn;
  new MutationObserver(() => {
    const result = document.querySelector("#hand-result [data-turn]");
    const late = !(+turnOf("#hand-given") <= +result?.dataset.turn);
    if (result && result.hidden !== late) result.hidden = late;
  }).observe(document.body, {
    childList: true,
    subtree: true,
    attributeFilter: ["data-turn", "hidden"], // of a card that takes the place of one like it
  });
}
