"""The embedded parts live in `var`; what the user gave stays; secrets are made once and never shown."""

from functools import partial
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.threads import at_once


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MLSD_{name.upper()}", raising=False)
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def test_every_part_is_embedded_under_var() -> None:
    settings = Settings()
    assert settings.var == Path("var")
    assert (settings.log, settings.store, settings.mlflow) == (
        "sqlite:///var/log.db",
        "sqlite:///var/store.db",
        "sqlite:///var/mlflow.db",
    )
    assert settings.data is None


def test_reading_the_settings_writes_nothing(tmp_path: Path) -> None:
    Settings()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSD_VAR", "/srv/mlsd")
    monkeypatch.setenv("MLSD_LOG", "kafka://broker:9092")
    monkeypatch.setenv("MLSD_DATA", "/srv/data")
    settings = Settings()
    assert settings.log == "kafka://broker:9092"
    assert settings.store == "sqlite:////srv/mlsd/store.db"
    assert settings.data == Path("/srv/data")


def test_kafka_goes_by_the_name_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", "/opt/kafka")
    assert Settings().kafka_home == Path("/opt/kafka")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"MLSD_{name.upper()}", "")
    monkeypatch.setenv("KAFKA_HOME", "")
    assert Settings() == given


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="lgo"):
        Settings(lgo="sqlite:///var/log.db")  # type: ignore[call-arg]  # the typo is the test


# --- under -----------------------------------------------------------------------------------------


def test_embedded_parts_move_with_the_folder() -> None:
    assert Settings().under(Path("elsewhere")) == Settings(var=Path("elsewhere"))


def test_urls_that_were_given_stay_in_another_folder() -> None:
    given = Settings(log="kafka://broker:9092", mlflow="http://mlflow:5000", data=Path("data"))
    moved = given.under(Path("elsewhere"))
    assert (moved.log, moved.mlflow, moved.data) == (given.log, given.mlflow, given.data)
    assert moved.store == "sqlite:///elsewhere/store.db"


def test_a_url_given_later_stays_too() -> None:
    given = Settings().model_copy(update={"log": "kafka://broker:9092"})
    assert given.under(Path("elsewhere")).log == "kafka://broker:9092"


def test_urls_from_the_environment_stay_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSD_VAR", "here")
    monkeypatch.setenv("MLSD_STORE", "redis://cache")
    moved = Settings().under(Path("a")).under(Path("b"))
    assert (moved.var, moved.store, moved.log) == (Path("b"), "redis://cache", "sqlite:///b/log.db")


def test_keys_that_were_given_stay_in_another_folder() -> None:
    moved = Settings(operator_key="open").under(Path("elsewhere"))
    assert moved.key("operator_key") == b"open"


# --- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client_key", "analyst_key", "operator_key", "pseudonym_key"])
def test_a_key_is_made_once_for_its_owner_only(name: str) -> None:
    key = Settings().key(name)
    assert len(key) == 64
    assert Settings().key(name) == key
    (file,) = Path("var").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_key_is_another() -> None:
    settings = Settings()
    names = ("client_key", "analyst_key", "operator_key", "pseudonym_key")
    keys = {*map(settings.key, names), settings.under(Path("b")).key("operator_key")}
    assert len(keys) == 5


def test_all_who_ask_at_once_get_the_same_key() -> None:
    for n in range(20):
        settings = Settings(var=Path(f"var{n}"))
        assert set(at_once(*[partial(settings.key, "operator_key")] * 4)) == {settings.key("operator_key")}
        assert [path.name for path in settings.var.iterdir()] == ["operator_key.secret"]


def test_a_given_key_is_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSD_OPERATOR_KEY", "open sesame")
    assert Settings().key("operator_key") == b"open sesame"
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_not_shown() -> None:
    settings = Settings(operator_key="sesame", mlflow="postgresql://me:sesame@db/mlflow")
    assert "sesame" not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("mlflow", "shown"),
    [
        ("http://me:sesame@mlflow:5000", "http://mlflow:5000"),
        ("postgresql://me:sesame@db/mlflow", ".venv/bin/mlflow ui --backend-store-uri $MLSD_MLFLOW"),
        ("", ".venv/bin/mlflow ui --backend-store-uri sqlite:///var/mlflow.db"),
    ],
)
def test_where_the_registry_is_seen_is_said_without_a_password(mlflow: str, shown: str) -> None:
    assert Settings(mlflow=mlflow).registry_page == shown


@pytest.mark.parametrize(
    ("log", "afresh"),
    [
        ("kafka://broker:9092", "kafka://broker:9092/demo-19700101-000001"),
        ("kafka://broker:9092/bank", "kafka://broker:9092/bank-demo-19700101-000001"),
        ("kafka", "kafka"),  # a broker that is not there yet
        ("", "sqlite:///{var}/demo/19700101-000001/log.db"),
    ],
)
def test_a_run_has_a_folder_and_topics_of_its_own(log: str, afresh: str, tmp_path: Path) -> None:
    given = Settings(var=tmp_path, log=log, store="redis://cache")
    settings = given.afresh("demo", at=1)
    assert (settings.log, settings.var) == (afresh.format(var=tmp_path), tmp_path / "demo/19700101-000001")
    assert settings.store == "redis://cache/0/demo-19700101-000001"
    assert given.afresh("demo", at=1).var == tmp_path / "demo/19700101-000001-2"  # in the same second


def test_a_secret_for_once_is_gone_when_it_has_been_read(tmp_path: Path) -> None:
    settings = Settings(var=tmp_path)
    settings.pin("visitor", "a token")
    assert (tmp_path / "visitor.secret").stat().st_mode & 0o077 == 0
    assert [settings.once("visitor"), settings.once("visitor")] == ["a token", ""]


@pytest.mark.parametrize("empty", ["", "\n", "  \n"])
@pytest.mark.parametrize("name", ["client_key", "analyst_key", "operator_key", "pseudonym_key"])
def test_an_empty_secret_is_refused_and_its_source_is_named(
    name: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("var").mkdir()
    Path(f"var/{name}.secret").write_text(empty)
    with pytest.raises(ValueError, match=rf"var/{name}\.secret is empty"):
        Settings().key(name)
    monkeypatch.setenv(f"MLSD_{name.upper()}", f"{empty} ")
    with pytest.raises(ValueError, match=rf"MLSD_{name.upper()} is empty"):
        Settings().key(name)


def test_the_line_end_of_a_secret_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("var").mkdir()
    Path("var/operator_key.secret").write_text("open\n")
    assert Settings().key("operator_key") == b"open"
    monkeypatch.setenv("MLSD_OPERATOR_KEY", "sesame\r\n")
    assert Settings().key("operator_key") == b"sesame"
