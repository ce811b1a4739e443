// Without this script the page is one long document. With it, one part of the network shows at a
// time, the address says which, and the arrow keys go from part to part.
(() => {
  "use strict";
  const panels = [...document.querySelectorAll(".panel")];
  const links = [...document.querySelectorAll("a[data-part]")];
  let current = -1;

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
      link.setAttribute("tabindex", chosen ? "0" : "-1"); // Tab enters each row once
    }
  }

  // Scroll the link's own row, never the page.
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

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const link = event.target.closest("a[data-part]");
    if (event.key === " " && link) {
      event.preventDefault();
      link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    }
    if (!link && event.target.closest("summary, .card .scroll")) return;
    const steps = { ArrowLeft: current - 1, ArrowRight: current + 1 };
    if (link) Object.assign(steps, { Home: 0, End: panels.length - 1 });
    if (event.key in steps) {
      event.preventDefault();
      go(steps[event.key], link);
    }
  });

  function follow() {
    const index = place(location.hash);
    if (index < 0) return;
    show(index);
    document.getElementById(decodeURIComponent(location.hash.slice(1))).scrollIntoView();
  }

  window.addEventListener("hashchange", follow);
  show(Math.max(place(location.hash), 0));
  if (place(location.hash) >= 0) follow();
})();
