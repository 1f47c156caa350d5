(() => {
  "use strict";
  // Wall times in the reader's own zone; without this script they stay in the drill's, which is named beside them.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat("sv-SE", { year: "numeric", month: "2-digit", day: "2-digit" });
  const told = (epoch, form) => {
    const moment = new Date(epoch * 1000);
    if (form === "full") return `${day.format(moment)} ${clock.format(moment)} ${zone}`;
    const hundredths = String(Math.floor((epoch % 1) * 100)).padStart(2, "0");
    return form === "fine" ? `${clock.format(moment)}.${hundredths}` : clock.format(moment);
  };
  for (const one of document.querySelectorAll("[data-epoch]")) one.textContent = told(Number(one.dataset.epoch), one.dataset.form);
  for (const one of document.querySelectorAll("[data-zone]")) one.textContent = zone;

  // A line under the pointer, with the moment it stands at.
  for (const picture of document.querySelectorAll("svg.picture")) {
    const [start, end, zero, wall] = ["start", "end", "zero", "wall"].map((name) => Number(picture.dataset[name]));
    const label = picture.parentElement.querySelector(".pointer");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "pointer-line");
    line.setAttribute("y1", "24");
    line.setAttribute("y2", picture.getAttribute("height") - 44);
    const hide = () => { line.remove(); label.hidden = true; };
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      if (part < 0 || part > 1) return hide();
      const at = start + part * (end - start), since = at - zero;
      for (const end of ["x1", "x2"]) line.setAttribute(end, `${part * 100}%`);
      if (!line.isConnected) picture.append(line);
      label.hidden = false;
      label.textContent = `${since < 0 ? "−" : "+"}${Math.abs(since).toFixed(2)} s · ${told(wall + at, "fine")}`;
      const left = event.clientX - picture.parentElement.getBoundingClientRect().left;
      label.style.left = `${Math.min(left + 10, picture.parentElement.clientWidth - label.offsetWidth)}px`;
    });
    picture.addEventListener("pointerleave", hide);
  }
})();
