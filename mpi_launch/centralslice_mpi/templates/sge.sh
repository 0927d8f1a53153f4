#!/bin/bash
#$ -S /bin/bash
#$ -N {{name}}
#$ -cwd
#$ -j y
#$ -pe {{environment}} {{cores}}
#$ -l h_rt={{time}}
{{directives}}

# its own warning comes as late as the queue's settings say
timer=(timeout --preserve-status --signal=USR1 {{work_s}})
{{body}}
