"""Visitors of a lab, who speak its websocket's protocol as a browser does; `python -m tests.visitors` times them.

A visitor keeps the values of the widgets that it was shown, asks for a page's live parts as often as the page wants,
and presses buttons and moves sliders in between.
"""

import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Common_pb2 import FileURLs
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.lab import PATIENCE, start_server, stop_server


@dataclass
class Seen:
    """What became of a visit."""

    reruns: list[tuple[str, float]] = field(default_factory=list)
    """What was done, and the seconds until the server had answered in full."""
    parts: int = 0  # live parts drawn anew
    trouble: list[str] = field(default_factory=list)  # exceptions and errors on the page


class Visitor:
    """One session."""

    def __init__(self, url: str) -> None:
        """Open the websocket of the lab at `url`."""
        self.seen = Seen()
        self._script = ""  # the page's, as the server names it
        self._parts: dict[str, tuple[float, float]] = {}  # by fragment: how often, and when next
        self._widgets: dict[str, WidgetState] = {}
        self._buttons: dict[str, str] = {}  # ids by label, of those that can be pressed
        self._sliders: dict[str, str] = {}
        self._uploaders: dict[str, str] = {}
        self._shown: set[str] = set()  # widgets that the script has shown since it began
        self._session, self._url = "", url
        self._urls: FileURLs | None = None  # where a file may be sent
        self._page, self._query = "", ""
        self._live: set[str] = set()  # fragments that have asked to be drawn again since then
        address = url.replace("http", "ws", 1) + "/_stcore/stream"
        self._socket: ClientConnection = connect(
            address,
            origin=Origin(url),
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            open_timeout=PATIENCE,
            legacy=True,
        )

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def open(self, page: str = "", query: str = "") -> None:
        """Go to a page, by its name; the Lab's is empty."""
        if page != self._page or not self._script:  # a link to the page itself lets its widgets be
            for known in (self._widgets, self._buttons, self._sliders, self._uploaders):
                known.clear()
        self._parts.clear()
        self._page, self._query = page, query
        self._ask(f"open {page or 'Lab'}", by_name=True)

    def press(self, label: str) -> bool:
        """Press the button of that label, if there is one that can be pressed."""
        button = self._buttons.get(label)
        if button:
            self._ask(label, pressed=button)
        return bool(button)

    def move(self, label: str, value: float) -> bool:
        """Move the slider of that label, if there is one."""
        if label in self._sliders:
            self._widgets[self._sliders[label]].double_array_value.data[:] = [value]
            self._ask(label)
            return True
        return False

    def upload(self, label: str, name: str, data: bytes) -> int:
        """Give a file to the uploader of that label; return the status that the server answers it with."""
        request = BackMsg()
        request.file_urls_request.request_id = name
        request.file_urls_request.file_names.append(name)
        request.file_urls_request.session_id = self._session
        self._urls = None
        self._socket.send(request.SerializeToString())
        end = time.monotonic() + PATIENCE
        while self._urls is None:
            assert time.monotonic() < end, "the server does not say where files go"
            self._take(0.1)
        boundary = "the-end-of-a-part"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        with urllib.request.urlopen(f"{self._url}/_stcore/health", timeout=PATIENCE) as answer:
            cookie = answer.headers["Set-Cookie"].split(";")[0]  # without which no other page may send files here
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Cookie": cookie,
            "X-Xsrftoken": cookie.partition("=")[2],
        }
        sent = urllib.request.Request(self._url + self._urls.upload_url, body, headers, method="PUT")
        try:
            with urllib.request.urlopen(sent, timeout=PATIENCE) as answer:
                status: int = answer.status
        except urllib.error.HTTPError as refused:
            return refused.code
        except (BrokenPipeError, ConnectionResetError):  # refused before it was read to its end
            return 413
        except urllib.error.URLError as cut:
            if isinstance(cut.reason, BrokenPipeError | ConnectionResetError):
                return 413
            raise
        state = WidgetState(id=self._uploaders[label])
        info = state.file_uploader_state_value.uploaded_file_info.add()
        info.name, info.size, info.file_id = name, len(data), self._urls.file_id
        info.file_urls.CopyFrom(self._urls)
        self._widgets[state.id] = state
        self._ask(label)
        return status

    def wait(self, seconds: float) -> None:
        """Look at the page for so long, with its live parts."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            due = min([*(when for _, when in self._parts.values()), end])
            if due > now:
                self._take(due - now)
                continue
            if now >= end:
                return
            part = next(name for name, (_, when) in self._parts.items() if when <= now)
            self._ask("look", part=part)

    def _ask(self, deed: str, *, by_name: bool = False, pressed: str = "", part: str = "") -> None:
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string = self._query
        asked.widget_states.widgets.extend(self._widgets.values())
        if by_name:
            asked.page_name = self._page
        else:
            asked.page_script_hash = self._script
        if pressed:
            asked.widget_states.widgets.append(WidgetState(id=pressed, trigger_value=True))
        asked.fragment_id, asked.is_auto_rerun = part, bool(part)
        begin = time.monotonic()
        self._socket.send(message.SerializeToString())
        ends = {ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR}
        ends |= {ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY} if part else set()
        while self._take(PATIENCE) not in ends:
            assert time.monotonic() < begin + PATIENCE, f"the server does not answer on the page {self._page or 'Lab'}"
        self.seen.parts += bool(part)
        if part:
            interval, _ = self._parts.get(part, (0.0, 0.0))
            if interval:
                self._parts[part] = interval, time.monotonic() + interval
        else:
            self.seen.reruns.append((deed, time.monotonic() - begin))

    def _take(self, seconds: float) -> "ForwardMsg.ScriptFinishedStatus.ValueType | None":
        """Take what the server says until a script has come to an end; return to which, None after so many seconds."""
        while True:
            try:
                data = self._socket.recv(timeout=max(seconds, 0.0))
            except TimeoutError:
                return None
            message = ForwardMsg()
            message.ParseFromString(data if isinstance(data, bytes) else data.encode())
            self._note(message)
            if message.WhichOneof("type") == "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    self._read()
                return message.script_finished

    def _note(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._session = message.new_session.initialize.session_id
            self._live, self._shown = set(), set()
        elif kind == "navigation":
            self._script = message.navigation.page_script_hash
        elif kind == "auto_rerun":
            interval = message.auto_rerun.interval
            self._live.add(message.auto_rerun.fragment_id)
            self._parts[message.auto_rerun.fragment_id] = interval, time.monotonic() + interval
        elif kind == "file_urls_response":
            (self._urls,) = message.file_urls_response.file_urls
        elif kind == "stop_auto_rerun":
            self._parts.pop(message.stop_auto_rerun.fragment_id, None)
        elif kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        elif kind == "delta":
            element = message.delta.new_element
            self._see(element)
            if element.WhichOneof("type") == "exception":
                self.seen.trouble.append(element.exception.message)
            elif element.WhichOneof("type") == "alert" and element.alert.format == element.alert.ERROR:
                self.seen.trouble.append(element.alert.body)

    def _read(self) -> None:
        """Keep the widgets of a whole page as a browser does: with the values that they are shown with."""
        self._parts = {name: times for name, times in self._parts.items() if name in self._live}
        self._widgets = {name: state for name, state in self._widgets.items() if name in self._shown}

    def _see(self, element: Any) -> None:
        """Take note of a widget as it is shown; a value is told once, and then the browser's to remember."""
        kind = element.WhichOneof("type")
        if kind == "button":
            if element.button.disabled:
                self._buttons.pop(element.button.label, None)
            else:
                self._buttons[element.button.label] = element.button.id
        elif kind == "file_uploader":
            self._uploaders[element.file_uploader.label] = element.file_uploader.id
        elif kind in _VALUES:
            proto = getattr(element, kind)
            self._shown.add(proto.id)
            if proto.set_value or proto.id not in self._widgets:
                self._widgets[proto.id] = state = WidgetState(id=proto.id)
                _VALUES[kind](proto, state)
            if kind == "slider":
                self._sliders[proto.label] = proto.id


def _slider(proto: Any, state: WidgetState) -> None:
    if proto.options:
        chosen = proto.raw_value if proto.set_value else [proto.options[int(place)] for place in proto.default]
        state.string_array_value.data[:] = chosen
    else:
        state.double_array_value.data[:] = proto.value if proto.set_value else proto.default


def _checkbox(proto: Any, state: WidgetState) -> None:
    state.bool_value = proto.value if proto.set_value else proto.default


def _number(proto: Any, state: WidgetState) -> None:
    name = "value" if proto.set_value else "default"
    value = getattr(proto, name)
    if not proto.HasField(name):
        return  # an empty field
    if proto.data_type == proto.INT:
        state.int_value = int(value)
    else:
        state.double_value = value


def _text(proto: Any, state: WidgetState) -> None:
    state.string_value = proto.value if proto.set_value else proto.default


def _choice(proto: Any, state: WidgetState) -> None:
    if proto.set_value:
        state.string_value = proto.raw_value
    elif proto.HasField("default"):
        state.string_value = proto.options[proto.default]


def _choices(proto: Any, state: WidgetState) -> None:
    named = proto.raw_values if proto.set_value else [proto.options[i] for i in proto.default]
    state.string_array_value.data[:] = [getattr(one, "content", one) for one in named]


_VALUES: dict[str, Callable[[Any, WidgetState], None]] = {
    "slider": _slider,
    "checkbox": _checkbox,
    "number_input": _number,
    "text_input": _text,
    "text_area": _text,
    "selectbox": _choice,
    "multiselect": _choices,
    "button_group": _choices,
}
"""How a browser says what a widget shows, by the kind of widget."""


PAGES = ["", "Adapt", "Runs", "Gradients", "Data", "Compare"]


def visit(url: str, kind: int, until: float, seen: list[Seen]) -> None:
    """One visitor's time in the lab: some train and watch, the others look around."""
    chance = random.Random(kind)
    visitor = Visitor(url)
    seen.append(visitor.seen)
    try:
        if kind < 3:
            visitor.open(query=f"preset=paper-10-shot&meta_iterations=10000000&seed={kind}")
            visitor.press("Train")
        else:
            visitor.open(chance.choice(PAGES))
        while time.monotonic() < until:
            visitor.wait(chance.uniform(1.0, 6.0))
            deed = chance.random()
            if kind >= 3 and deed < 0.3:
                visitor.open(chance.choice(PAGES))
            elif deed < 0.7:
                visitor.press("New task") or visitor.press("Pin") or visitor.press("Unpin")
            else:
                visitor.move("Smoothing", chance.choice([0.0, 0.5, 0.9]))
    except Exception as error:  # a closed connection too is the lab's fault
        visitor.seen.trouble.append(f"{type(error).__name__}: {error}")
    finally:
        visitor.close()


def tour(url: str) -> None:
    """Have the server compute once what it computes once."""
    first = Visitor(url)
    for page in PAGES:
        first.open(page)
    first.close()


def crowd(url: str, visitors: int, seconds: float) -> list[Seen]:
    """So many visitors at once, for so long; what became of each."""
    seen: list[Seen] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=visit, args=(url, kind, until, seen)) for kind in range(visitors)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    return seen


def main() -> None:
    """Time twenty visitors, for so many seconds as the command line says."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(f"sqlite:///{folder}/maml.db")
        try:
            tour(server.url)
            memory = psutil.Process(server.process.pid).memory_info
            before = memory().rss / 2**20
            seen = crowd(server.url, 20, seconds)
            reruns = np.array([taken for one in seen for _, taken in one.reruns])
            print(
                f"{len(seen)} visitors, {len(reruns)} reruns, {sum(one.parts for one in seen)} live parts: "
                f"median {np.median(reruns):.3f} s, 95th percentile {np.quantile(reruns, 0.95):.3f} s; "
                f"memory of the server {before:.0f} -> {memory().rss / 2**20:.0f} MiB"
            )
            for deed in sorted({deed for one in seen for deed, _ in one.reruns}):
                some = [taken for one in seen for what, taken in one.reruns if what == deed]
                print(f"  {deed}: {len(some)} times, median {np.median(some):.3f} s, longest {max(some):.3f} s")
            for trouble in {text for one in seen for text in one.trouble}:
                print(trouble)
        finally:
            stop_server(server)


if __name__ == "__main__":
    main()
