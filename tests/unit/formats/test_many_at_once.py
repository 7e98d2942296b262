"""Pages that several jobs of one process make at the same moment, the first ones included."""

from __future__ import annotations

import subprocess
import sys

_PAGES = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

sys.setswitchinterval(1e-6)
from hub.formats.printed import pdf as report_pdf
from tests import builders
from tests.unit.formats.encoded import CONTEXT

NAMES = ("Zoë^Müller", "Łukasz^Øyvind", "Čapek^Jiří", "Åse^Ünal", "Ñandú^Ígor", "Şahin^Ğül")
together = Barrier(len(NAMES))

def answered(name):
    patient = replace(builders.PATIENT, patient_name=name)
    request = builders.request_for(builders.chest_ct_study(1, patient=patient))
    finding = builders.presence(request).findings[0]
    letters = "".join(map(chr, range(0xC0, 0x180)))
    many = tuple(replace(finding, statement=f"{letters[n::7]} {name}") for n in range(20))
    return request, replace(builders.presence(request), findings=many)

def page(of):
    return report_pdf.encode(*of, builders.model_card(), CONTEXT, {}).content

def first_page(of):
    together.wait()
    return page(of)

asked = list(map(answered, NAMES))
with ThreadPoolExecutor(len(NAMES)) as pool:
    at_once = list(pool.map(first_page, asked))
print(at_once == list(map(page, asked)))
"""

_FONTS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

sys.setswitchinterval(1e-6)
from hub.formats.printed.style import register_fonts

together = Barrier(4)

def registered(_):
    together.wait()
    return register_fonts()

with ThreadPoolExecutor(4) as pool:
    print(len(set(map(id, pool.map(registered, range(4))))))
"""


def test_pages_that_are_made_together_say_what_they_say_alone() -> None:
    assert run(_PAGES) == ("True", "")


def test_the_fonts_of_a_page_are_never_exchanged() -> None:
    assert run(_FONTS) == ("1", "")


def run(program: str) -> tuple[str, str]:
    """What it prints, in a process of its own: what only the first threads meet is met again."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=120, text=True
    )
    return done.stdout.strip(), done.stderr[-2000:]
