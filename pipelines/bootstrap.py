"""The composition root that all processes share: from settings to the objects that do the work."""

from contextlib import ExitStack
from importlib.metadata import version
from uuid import UUID

from actors.board import Board
from actors.rabbitmq import topology
from actors.rabbitmq.janitor import Janitor
from actors.rabbitmq.publisher import Publisher
from actors.schedules import Schedules
from actors.submission import Defaults, Submission
from actors.web.connecting import Gate
from pipelines.catalogue import Catalogue, collect
from pipelines.documents.embedding import Models
from pipelines.documents.equipment import endpoint_of, equip
from pipelines.documents.housekeeping import Housekeeping
from pipelines.documents.library import Library
from pipelines.documents.reembedder import Orders, Reembedder
from pipelines.documents.reembedding import reembedding
from pipelines.documents.stages import Workshop, document_processing
from pipelines.documents.store.facade import MIGRATIONS as DOCUMENT_MIGRATIONS
from pipelines.graph import RunGraphs
from pipelines.letters import Payloads, Workbench
from pipelines.recovery import Recoverer
from pipelines.settling import Settler
from pipelines.strays import StrayReplayer
from tasks import catalogue as record_catalogue
from tasks.bell import Bell
from tasks.callback_queries import CallbackQueries
from tasks.database import Database, connect
from tasks.details import Details
from tasks.embedded import embedded_postgres
from tasks.figures import FigureQueries
from tasks.jobs import JobQueries
from tasks.leases import Lease, Profile
from tasks.ledger import Ledger
from tasks.letters import LetterQueries
from tasks.locks import PostgresLocks
from tasks.migrations import migrate
from tasks.queries import Queries
from tasks.queues import QueueQueries
from tasks.replays import ReplayQueries
from tasks.schedules import ScheduleQueries
from tasks.settings import Settings
from tasks.states import FINAL
from tasks.strays import StrayQueries
from tasks.vitals import Pulse

DAY = 86_400.0


class Kit:
    """Everything a process works with. Close it to stop its threads and give back its connections."""

    def __init__(self, settings: Settings, database_url: str, resources: ExitStack) -> None:
        self.settings = settings
        self.database_url = database_url
        self._resources = resources
        self.database: Database = connect(database_url, pool=settings.db_pool)
        resources.callback(self.database.close_all)
        migrate_all(self.database)
        self.catalogue: Catalogue = collect(settings.actors, own=[document_processing, reembedding])
        record_catalogue.declare(self.database, self.catalogue.types())
        self.defaults = Defaults(settings.max_retries, settings.task_timeout)
        self.ledger = Ledger(database_url).start()
        resources.callback(self.ledger.close)
        self.pulse = Pulse(self.ledger.vitals)
        self._open_questions()
        self._open_documents()
        self._open_operators_desk()

    def _open_questions(self) -> None:
        """What can be asked of the record."""
        self.queries = Queries(self.database)
        self.queues = QueueQueries(self.database)
        self.figures = FigureQueries(self.database)
        self.letters = LetterQueries(self.database)
        self.replays = ReplayQueries(self.database)
        self.strays = StrayQueries(self.database)
        self.jobs = JobQueries(self.database)
        self.details = Details(self.database)
        self.callbacks = CallbackQueries(self.database)

    def _open_documents(self) -> None:
        """What submits tasks, and the documents that some of them are about."""
        self.callback_gate = Gate(allow_private=self.settings.callback_allow_private)
        self.workshop: Workshop = equip(self.settings, self.database)
        models = Models(self.workshop.embedder, endpoint_of(self.settings))
        self.submission = Submission(
            self.catalogue,
            self.ledger,
            self.queries,
            self.defaults,
            checks={
                document_processing.name: self.workshop.sources.check,
                reembedding.name: Orders(self.workshop.store, models).check,
            },
            callbacks=self.callback_gate,
        )
        self.housekeeping = Housekeeping(
            self.workshop.store, self.workshop.blobs, self.queries, document_processing.name
        )
        self.library = Library(
            self.workshop.store,
            self.workshop.sources,
            self.submission,
            self.workshop.embedder,
            self.settings.embedder,
            models,
        )
        self.reembedder = Reembedder(self.workshop.store, models, self.submission, self._is_unfinished)

    def _open_operators_desk(self) -> None:
        """What operators use, and what looks after runs."""
        self.payloads = Payloads(self.catalogue, self.submission)
        self.schedules = Schedules(
            self.ledger,
            ScheduleQueries(self.database),
            self.submission,
            least_seconds=self.settings.schedule_min_seconds,
            kept=DAY * self.settings.retention_days,
        )
        self.workbench = Workbench(self.letters, self.payloads)
        self.graphs = RunGraphs(self.catalogue, self.queries, self.details)
        self.recoverer = Recoverer(self.catalogue, self.queries, self.defaults)
        self.stray_replayer = StrayReplayer(
            self.submission,
            self.ledger,
            self.queries,
            self.strays,
            has_rabbitmq=bool(self.settings.broker_urls),
        )

    def _is_unfinished(self, task_id: UUID) -> bool:
        task = self.queries.task(task_id)
        return task is not None and task.status not in FINAL

    def open_publisher(self) -> Publisher | None:
        """Connect the ledger to RabbitMQ, if there is one: what is ready is published after its commit."""
        if not self.settings.broker_urls:
            return None
        publisher = Publisher(
            topology.parameters(self.settings.broker_urls),
            self.settings.queue_type,
            confirmed=self.ledger.close_dispatch,
            unconfirmed=self.ledger.reopen_dispatch,
        ).start()
        self._resources.callback(publisher.close)
        self.pulse.add(publisher.vitals)
        self.ledger.publish_through(publisher)
        return publisher

    def open_ledger(self) -> Ledger:
        """Another ledger beside that of the process, for what must not wait for what others record."""
        ledger = Ledger(self.database_url).start()
        self._resources.callback(ledger.close)
        return ledger

    def open_janitor(self) -> Janitor | None:
        """The janitor of the dead letters on RabbitMQ, if there is one."""
        if not self.settings.broker_urls:
            return None
        locks = PostgresLocks(self.database_url)
        self._resources.callback(locks.close)
        return Janitor(
            topology.parameters(self.settings.broker_urls),
            self.settings.queue_type,
            self.ledger,
            self.strays,
            locks,
        )

    def open_settler(self) -> Settler:
        """The flow of this process, with its thread."""
        settler = Settler(self.catalogue, self.ledger, self.queries, self.defaults).start()
        self._resources.callback(settler.close)
        return settler

    def open_board(self) -> Board:
        """The verbs for the actors of this process, on its own connections; it is the current board."""
        bell = Bell(self.database_url)
        self._resources.callback(bell.close)
        locks = PostgresLocks(self.database_url)
        self._resources.callback(locks.close)
        board = Board(self.submission, self.ledger, self.queries, bell, locks)
        return self._resources.enter_context(board)

    def open_lease(self, kind: str) -> Lease:
        """The lease of a process that claims nothing but publishes (an API or a clock process)."""
        profile = Profile(kind, app_version())
        lease = Lease(self.database_url, self.ledger.owner, profile, pulse=self.pulse).start()
        self._resources.callback(lease.close)
        return lease

    def close(self) -> None:
        """Stop everything, last opened first."""
        self._resources.close()


def open_kit(settings: Settings) -> Kit:
    """Connect, bring the schema up to date and declare the types.

    Raises:
      CallboardError: Postgres cannot be reached, or a module of actors cannot be loaded.
    """
    with ExitStack() as resources:
        url = settings.database_url or resources.enter_context(embedded_postgres(settings.data_dir))
        kit = Kit(settings, url, resources)
        kit._resources = resources.pop_all()
        return kit


def migrate_all(database: Database) -> list[str]:
    """Bring the schema of the record and of the document store up to date; the names of what was applied."""
    return migrate(database) + migrate(database, DOCUMENT_MIGRATIONS)


def app_version() -> str:
    """The installed version of Callboard."""
    return version("callboard")
