"""Files with few payments through the running service: virtual time then moves by hours or days between two of them."""

from pathlib import Path

import pytest

from fraud import config
from fraud.demo import RATE, past
from fraud.live import Live
from fraud.replay import take
from fraud.schema import DEAD
from shared.clock import sleep
from shared.console import Stage
from shared.eventlog.port import beginning
from shared.settings import Settings
from shared.table_files.cells import SPELLING
from tests.servers import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

TODAY = 20_454  # 2026-01-01


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three payments a day on the first days of January, then on one day a week later, then on one in March."""
    days = ["01-01", "01-02", "01-03", "01-10", "03-01"]
    rows = [f"{day}-{n},2026-{day} {7 * n:02}:30:00,c{n},t1,12.50,0" for day in days for n in range(1, 4)]
    path = tmp_path / "payments.csv"
    path.write_text("\n".join(["TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD", *rows]))
    return path


def test_every_test_payment_of_a_sparse_file_is_decided(file: Path, tmp_path: Path) -> None:
    payments, table = take(file, days=0, spelling=SPELLING)
    assert (payments.height, table.letters) == (15, [])
    (port,) = free_ports(1)
    settings = Settings(var=tmp_path / "var")
    with Live(settings, payments, Stage(), port=port, today=TODAY + 1, seed=0) as live:
        past(settings, payments, live, until=(TODAY + 1) * config.DAY)
        live.open(rate=RATE)
        live.days(range(TODAY + 1, payments["at"][-1] // config.DAY + 1))
        sleep(0.5)  # of which the last payment is the latest time
        answers = live.close_http()
        assert live.decided().height == 12
        assert answers.failures == []
        assert len(answers.latencies) > 20
        reader = live.log.reader(beginning([DEAD]))
        assert reader.poll(1_000, 0.0) == []
        reader.close()
