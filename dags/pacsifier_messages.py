"""### Messages: tell people how runs ended, what waits for an answer, and what became of the night

**send** looks every few minutes for what happened since, and sends it as mails or by other channels, to the recipients
of the settings and of the projects: counts and a link. It reminds of questions that nobody has answered, and tells in
the morning what became of the night, in one message.

Whoever has got a message does not get it again. The task fails while a message cannot be sent, says why, and tries
again in the next run, for three days. It changes nothing for the runs that the messages are about.

Nobody is told unless the setting `tell`, or `tell` of a project, names somebody.
"""

from datetime import timedelta

from airflow.sdk import DAG

from pacsifier_ops.base import settings
from pacsifier_ops.operators.messages import MessagesOperator
from pacsifier_ops.operators.params import common

with DAG(
    "pacsifier_messages",
    description="Send messages on runs, questions and nights",
    doc_md=__doc__,
    schedule=settings.messages_schedule(),
    catchup=False,
    max_active_runs=1,
    tags=["pacsifier"],
    # The next run tries again. One that hangs must not be in its way.
    **common("2.0.0", longest=timedelta(hours=1)),
):
    MessagesOperator(task_id="send", retries=0)
