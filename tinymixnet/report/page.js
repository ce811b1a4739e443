// Without this script the page is one long document. With it, one part of the network shows at a
// time, the address says which, and the arrow keys go from part to part. A map that is pointed at is
// named, and a click enlarges it.
(() => {
  "use strict";
  const panels = [...document.querySelectorAll(".panel")];
  const links = [...document.querySelectorAll("a[data-part]")];
  let current = -1;

  // -- parts of the network ----------------------------------------------------------------------

  // Where an address leads: #blocks_3 to a part, #blocks_3/se_gate to a layer in it.
  function place(hash) {
    const target = document.getElementById(decodeURIComponent(hash.slice(1)));
    return panels.indexOf(target && target.closest(".panel"));
  }

  function show(index) {
    current = index;
    panels.forEach((panel, i) => { panel.hidden = i !== index; });
    for (const link of links) {
      const chosen = link.dataset.part === panels[index].id;
      if (chosen) {
        link.setAttribute("aria-current", "true");
        reveal(link);
      } else {
        link.removeAttribute("aria-current");
      }
      link.setAttribute("tabindex", chosen ? "0" : "-1"); // Tab enters the drawing once
    }
  }

  // Scroll the drawing sideways, never the page.
  function reveal(link) {
    const row = link.closest(".scroll");
    const at = link.getBoundingClientRect();
    const frame = row.getBoundingClientRect();
    row.scrollLeft += at.left + at.width / 2 - frame.left - frame.width / 2;
  }

  function go(index, focused) {
    const next = Math.min(Math.max(index, 0), panels.length - 1);
    show(next);
    history.replaceState(null, "", "#" + panels[next].id);
    if (focused) {
      const row = focused.closest("nav");
      row.querySelector("[aria-current]").focus({ preventScroll: true });
    }
    if (panels[next].getBoundingClientRect().top < 0) {
      panels[next].scrollIntoView();
    }
  }

  function follow() {
    const index = place(location.hash);
    if (index < 0) return;
    show(index);
    document.getElementById(decodeURIComponent(location.hash.slice(1))).scrollIntoView();
  }

  // -- maps --------------------------------------------------------------------------------------

  const dialog = document.getElementById("enlarged");
  const tileOf = (event) => event.target.closest(".tiles button");
  const tilesOf = (tile) => [...tile.closest(".tiles").querySelectorAll("button")];
  let enlarged = null;

  // Say which map is pointed at, in the line below the maps.
  function name(event) {
    const tile = tileOf(event);
    const figure = event.target.closest && event.target.closest(".maps");
    const line = figure && figure.querySelector("output");
    if (line) line.textContent = tile ? tile.title : "";
  }

  function picture(kind, text) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const image = document.createElement("span");
    image.className = kind;
    caption.textContent = text;
    figure.append(image, caption);
    return [figure, image];
  }

  function enlarge(tile) {
    enlarged = tile;
    const group = tile.closest(".tiles");
    const figures = [];
    if (!tile.closest(".kernels")) figures.push(picture("photo", "the photo")[0]);
    const trio = tile.closest(".trio");
    for (const one of trio ? trio.querySelectorAll("button") : [tile]) {
      const [figure, image] = picture("large", one.title);
      image.style.cssText = group.style.cssText;
      image.style.setProperty("--i", one.style.getPropertyValue("--i"));
      figures.push(figure);
    }
    dialog.className = figures.length > 2 ? "four" : "";
    dialog.firstElementChild.replaceChildren(...figures);
    dialog.querySelector("p").textContent = group.getAttribute("aria-label");
    if (!dialog.open) dialog.showModal();
  }

  function move(tile, step) {
    const all = tilesOf(tile);
    const next = all[Math.min(Math.max(all.indexOf(tile) + step, 0), all.length - 1)];
    for (const one of all) one.tabIndex = one === next ? 0 : -1; // Tab enters the maps once
    return next;
  }

  document.addEventListener("pointerover", name);
  document.addEventListener("focusin", name);
  document.addEventListener("click", (event) => {
    const tile = tileOf(event);
    if (tile) {
      name(event);
      enlarge(move(tile, 0));
    } else if (event.target === dialog) { // the ground around what it shows
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => enlarged && enlarged.focus({ preventScroll: true }));

  // -- keys --------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (dialog.open) {
      if (!sideways) return;
      event.preventDefault();
      enlarge(move(enlarged, sideways * (enlarged.closest(".trio") ? 3 : 1)));
      return;
    }
    const tile = tileOf(event);
    if (tile && sideways) {
      event.preventDefault();
      move(tile, sideways).focus();
      return;
    }
    const link = event.target.closest("a[data-part]");
    if (event.key === " " && link) {
      event.preventDefault();
      link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    }
    if (!link && event.target.closest("summary, .card .scroll, .all .scroll")) return;
    const steps = { ArrowLeft: current - 1, ArrowRight: current + 1 };
    if (link) Object.assign(steps, { Home: 0, End: panels.length - 1 });
    if (event.key in steps) {
      event.preventDefault();
      go(steps[event.key], link);
    }
  });

  window.addEventListener("hashchange", follow);
  const first = document.querySelector("main").dataset.first;
  show(Math.max(place(location.hash), first ? place("#" + first) : 0, 0));
  if (place(location.hash) >= 0) follow();
})();
