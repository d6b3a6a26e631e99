# Datasette's JSON of the same table; it reads only, and keeps no audit trail.
import os

from datasette.app import Datasette

app = Datasette([os.environ["BENCH_DATABASE"]], settings={"suggest_facets": False}).app()
