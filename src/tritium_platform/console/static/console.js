// Puts a fresh copy of the overview in place every two seconds, while somebody looks at it.
"use strict";

const live = document.getElementById("live");

async function refresh() {
  if (document.hidden) {
    return;
  }
  let answer;
  try {
    answer = await fetch("/console/live", { credentials: "same-origin", redirect: "error" });
  } catch {
    live.classList.add("stale");
    return;
  }
  if (answer.status === 401) {
    location.assign("/console/login");
  } else if (answer.ok) {
    live.innerHTML = await answer.text();
    live.classList.remove("stale");
  } else {
    live.classList.add("stale");
  }
}

setInterval(refresh, 2000);
document.addEventListener("visibilitychange", refresh);
