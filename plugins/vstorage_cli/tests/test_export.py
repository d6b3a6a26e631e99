"""`vstorage export`."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from models import Member, Team

DATABASE = ("--url", "sqlite:///machine.db")


def test_the_file_is_named_by_the_exporter_and_standard_output_stays_empty(run, folder):
    done = run("export", "hello", *DATABASE)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Hello, recipe! You have 2 rows.\n" in (folder / "hello.txt").read_text()
    assert "Wrote hello.txt (" in done.stderr


def test_a_dash_writes_to_standard_output(invoke, folder):
    done = invoke("export", "hello", "-", "--greeting", "Hi", *DATABASE)
    assert "Hi, station! You have 1 rows.\n" in done.stdout
    assert "Wrote" not in done.stderr
    assert not (folder / "hello.txt").exists()


def test_a_folder_gets_the_file(invoke, folder):
    (folder / "usb").mkdir()
    assert invoke("export", "hello", "usb", *DATABASE).exit_code == 0
    assert (folder / "usb" / "hello.txt").exists()


def test_an_existing_file_is_replaced_only_with_force(invoke, folder):
    (folder / "hello.txt").write_text("yesterday")
    done = invoke("export", "hello", *DATABASE)
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: hello.txt exists. Replace it with --force, or name another file.\n",
    )
    assert (folder / "hello.txt").read_text() == "yesterday"
    assert invoke("export", "hello", "--force", *DATABASE).exit_code == 0
    assert (folder / "hello.txt").read_text().startswith("Hello")


def test_a_symbolic_link_stays_one(invoke, folder):
    (folder / "latest").symlink_to("real.txt")
    (folder / "real.txt").write_text("yesterday")
    assert invoke("export", "hello", "latest", "--force", *DATABASE).exit_code == 0
    assert (folder / "latest").is_symlink()
    assert (folder / "real.txt").read_text().startswith("Hello")


def test_the_database_itself_is_never_overwritten(invoke, folder):
    before = (folder / "machine.db").read_bytes()
    done = invoke("export", "hello", "machine.db", "--force", *DATABASE)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, "Error: machine.db is the database itself.")
    assert (folder / "machine.db").read_bytes() == before


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        ("sentence", "Error: the printer is out of paper"),
        ("crash", "Error: failed with KeyError: 'lost'\n`vstorage --debug ...` shows where"),
    ],
)
def test_a_failing_export_says_so_without_a_traceback_and_leaves_the_old_file(invoke, folder, fail, sentence):
    (folder / "acme.json").write_text("yesterday")
    before = sorted(folder.iterdir())
    done = invoke("export", "acme", "--force", "-q", "--fail", fail, *DATABASE)
    assert (done.exit_code, done.stderr) == (1, f"{sentence}\n")
    assert (folder / "acme.json").read_text() == "yesterday"
    assert sorted(folder.iterdir()) == before


def test_debug_shows_the_traceback(invoke):
    for arguments, variables in ((["--debug"], {}), ([], {"VSTORAGE_DEBUG": "1"})):
        done = invoke(*arguments, "export", "acme", "-", "--fail", "crash", *DATABASE, **variables)
        assert done.exit_code == 1
        assert "Traceback" in done.stderr
        assert 'raise KeyError("lost")' in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing_behind(folder, start, number):
    before = sorted(folder.iterdir())
    with start("export", "acme", "-q", "--fail", "wait", *DATABASE, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == "waiting\n"
        assert len(list(folder.glob(".acme.json.*.part"))) == 1
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr.read() == "Interrupted.\n"
    assert sorted(folder.iterdir()) == before


def test_a_reader_that_goes_away_is_no_traceback(start):
    reader, writer = os.pipe()
    os.close(reader)
    with start("export", "hello", "-", "-q", *DATABASE, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_device_is_written_to_and_not_replaced(invoke, folder):
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert invoke("export", "hello", "pipe", *DATABASE).exit_code == 0
    assert os.read(reader, 10_000).startswith(b"Hello, ")
    os.close(reader)
    assert (folder / "pipe").is_fifo()


def test_a_database_that_does_not_exist_is_not_created(invoke, folder):
    done = invoke("export", "hello", "--url", "sqlite:///machine2.db", "-q")
    assert done.exit_code == 3
    assert done.stderr == (
        f"Error: sqlite:///{folder}/machine2.db: there is no such file;"
        " name the database with --url or VSTORAGE_DATABASE_URL\n"
    )
    assert not (folder / "machine2.db").exists()
    assert not (folder / "hello.txt").exists()


def test_without_models_the_tables_are_those_of_the_database(invoke):
    done = invoke("export", "acme", "-", VSTORAGE_DATABASE_URL="sqlite:///machine.db")
    assert json.loads(done.stdout)["tables"] == ["auditlog", "station", "recipe"]


def test_with_an_application_the_tables_are_those_of_its_models(run, folder):
    (folder / "machine.py").write_text((folder / "machine.py").read_text().split("class Recipe")[0])
    for arguments, variables in ((["--app", "machine"], {}), ([], {"VSTORAGE_APP": "machine"})):
        done = run("export", "acme", "-", *DATABASE, *arguments, **variables)
        assert json.loads(done.stdout)["tables"] == ["auditlog", "station"]


def test_the_database_that_the_application_opens_is_the_default(run, folder):
    (folder / "app.py").write_text(
        "from machine import *\n"
        "from vstorage_core import bootstrap\n"
        "bootstrap(accessors=[stations, recipes], database_url='sqlite:///machine.db')\n"
    )
    assert "recipe! You have 2 rows" in run("export", "hello", "-", "--app", "app").stdout
    (folder / "other.db").touch()
    assert (
        "has no tables to export" in run("export", "hello", "-", "--app", "app", "--url", "sqlite:///other.db").stderr
    )


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_server_is_exported_without_models(invoke, make_database, open_storage, engine):
    url = make_database(engine)
    open_storage(url)
    tables = json.loads(invoke("export", "acme", "-", "--url", url).stdout)["tables"]
    assert tables.index(Team.__tablename__) < tables.index(Member.__tablename__)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (["--text", "a b"], {"text": "'a b'"}),
        (["--whole", "9"], {"whole": "9"}),
        (["--ratio", "1e-3"], {"ratio": "0.001"}),
        (["--loud", "--no-shown"], {"loud": "True", "shown": "False"}),
        (["--no-loud", "--shown"], {"loud": "False", "shown": "True"}),
        (["--color", "blue"], {"color": "'blue'"}),
        (["--separator", "\\t"], {"separator": r"'\t'"}),
        (["--separator", "\t"], {"separator": r"'\t'"}),
        (["--paper", "letter"], {"paper": "<Paper.LETTER: 'letter'>"}),
        (["--names", "a", "--names", "b,c"], {"names": "['a', 'b,c']"}),
        (["--sizes", "1", "--sizes", "2"], {"sizes": "[1, 2]"}),
        (["--marks", "2", "--marks", "2"], {"marks": "{2}"}),
        (["--folder", "/x"], {"folder": "PosixPath('/x')"}),
        (["--maybe", "0"], {"maybe": "0"}),
        (["--acme-url", "here"], {"url": "'here'"}),
    ],
)
def test_every_kind_of_option_reaches_the_exporter(invoke, flags, options):
    done = invoke("export", "acme", "-", "--url", "sqlite://", *flags)
    assert json.loads(done.stdout)["options"] == options


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--whole", "10"], "Error: Invalid value for '--whole': Input should be less than or equal to 9"),
        (["--maybe", "-1"], "Error: Invalid value for '--maybe': Input should be greater than or equal to 0"),
        (["--sizes", "1", "--sizes", "x"], "Error: Invalid value for '--sizes': Input should be a valid integer"),
        (["--color", "green"], "Error: Invalid value for '--color': 'green' is not one of 'red', 'blue'."),
        (["--text", "loud"], "Error: a loud text must be loud"),
        (["--text"], "Error: Option '--text' requires an argument."),
        (["--nonsense"], "Error: No such option"),
        (["a", "b"], "Error: Got unexpected extra argument"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_opened(invoke, flags, sentence):
    done = invoke("export", "acme", "--url", "sqlite:////nowhere/machine.db", *flags)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_the_help_shows_what_the_model_says(invoke):
    text = " ".join(invoke("export", "acme", "--help").stdout.split())
    for expected in (
        "Print what was asked for.",
        "[default: acme.json]",
        "--text TEXT What to say [default: plain; length >=1]",
        "--whole INTEGER [default: 3; >=1; <=9]",
        "--ratio NUMBER [default: 0.5]",
        "--shown / --no-shown [default: shown]",
        r"--separator [,|\t]",
        "--paper [letter|a4] [default: a4]",
        "--acme-url TEXT [default: none]",
    ):
        assert expected in text
    assert "Undefined" not in text


def test_the_help_of_export_lists_the_exporters_with_their_summaries(invoke):
    text = invoke("export", "--help").stdout
    assert "  acme " in text
    assert "Print what was asked for" in text
    assert "Greet every table" in text


def test_an_unknown_exporter_is_answered_with_the_installed_ones(invoke):
    done = invoke("export", "nonsense")
    assert done.exit_code == 2
    assert "Error: There is no exporter 'nonsense'. Installed: acme, " in done.stderr


def test_no_web_framework_is_loaded(folder, environment):
    code = (
        "import sys; from vstorage_cli.main import vstorage\n"
        "vstorage(['export', 'hello', '-', '--url', 'sqlite:///machine.db'], standalone_mode=False)\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_shell_completion_offers_exporters_flags_and_choices(run):
    for words, offered in (
        ("vstorage export ac", "plain,acme"),
        ("vstorage export acme --who", "plain,--whole"),
        ("vstorage export acme --color b", "plain,blue"),
    ):
        count = str(len(words.split()) - 1)
        done = run(_VSTORAGE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
        assert done.stdout.splitlines() == [offered]


def export_on_a_terminal(start, *flags):
    """What the terminal of `vstorage export acme` shows."""
    terminal, end = pty.openpty()
    with start("export", "acme", *flags, *DATABASE, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        try:
            while chunk := os.read(terminal, 1024):
                shown += chunk
        # How Linux tells that the other end is closed.
        except OSError:
            pass
        assert process.wait(30) == 0
    os.close(terminal)
    return shown.decode()


def test_a_terminal_gets_a_progress_bar_that_is_gone_in_the_end(start):
    shown = export_on_a_terminal(start)
    bar = "pages                 [########################] 100%  3 of 3"
    assert f"\r{bar}" in shown
    assert f"\r{' ' * len(bar)}\rWrote acme.json" in shown


def test_a_pipe_and_a_quiet_terminal_get_no_progress_bar(run, start):
    assert export_on_a_terminal(start, "--quiet") == ""
    assert "pages" not in run("export", "acme", "--force", *DATABASE).stderr


def test_a_single_table_is_written_to_a_file_of_its_name_with_filters_and_options(invoke, folder):
    done = invoke("export", "csv", "--table", "recipe", "--where", "name__startswith=W", *DATABASE)
    assert done.exit_code == 0, done.stderr
    assert (folder / "recipe.csv").read_text() == '"id","name","station_id"\n1,"Water",1\n'
    done = invoke("export", "ndjson", "-", "--table", "recipe", "--where", "recipe.id__in=2,3", *DATABASE)
    assert done.stdout == '{"id":2,"name":"Juice","station_id":1}\n'


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("csv", "--table", "wrong"), "there is no table wrong; the tables are "),
        (("csv", "--table", "recipe", "--tables", "station"), "csv: unknown option tables; it knows: dialect"),
        (("csv", "--where", "recipe.price=1"), "cannot filter by 'price'; the fields are id, name, station_id"),
        (("hello", "--table", "recipe"), "No such option"),
    ],
)
def test_a_table_or_filter_that_cannot_be_is_refused(invoke, folder, flags, message):
    done = invoke("export", *flags, *DATABASE)
    assert done.exit_code != 0
    assert message in done.stderr
    assert not list(folder.glob("*.csv"))
